package lifecycle

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// descendants lists what descends from a process.
func descendants(pid int) (all []int) {
	for _, c := range children(pid) {
		all = append(append(all, c), descendants(c)...)
	}
	return all
}

// tick is the unit of times in /proc: USER_HZ is 100 on every architecture that Go knows.
const tick = time.Second / 100

// fieldsOf returns fields of /proc/PID/stat by their numbers in proc(5), from 3 on.
func fieldsOf(pid int) func(n int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	i := bytes.LastIndexByte(b, ')')
	if err != nil || i < 0 {
		return nil // it has ended
	}
	f := strings.Fields(string(b[i+1:]))
	return func(n int) int64 {
		if n-3 >= len(f) {
			return 0
		}
		v, _ := strconv.ParseInt(f[n-3], 10, 64)
		return v
	}
}

func usage(pid int) (Usage, error) {
	const utime, stime, cutime, cstime, rss = 14, 15, 16, 17, 24
	var u Usage
	if f := fieldsOf(pid); f != nil { // what has ended below it; itself does not count
		u.CPU = time.Duration(f(cutime)+f(cstime)) * tick
	}
	for _, p := range descendants(pid) {
		f := fieldsOf(p)
		if f == nil {
			continue
		}
		u.CPU += time.Duration(f(utime)+f(stime)+f(cutime)+f(cstime)) * tick
		u.Memory += f(rss) * int64(os.Getpagesize())
		u.Processes++
	}
	return u, nil
}

func listening(pid int) ([]int, error) {
	below := descendants(pid)
	if len(below) == 0 {
		return nil, nil
	}
	at := map[string]int{} // the port of each socket that listens
	for _, file := range []string{"tcp", "tcp6"} {
		if err := listeners(fmt.Sprintf("/proc/%d/net/%s", below[0], file), at); err != nil && !os.IsNotExist(err) {
			return nil, err
		}
	}
	var ports []int
	for _, p := range below {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p))
		for _, fd := range fds {
			name, err := os.Readlink(fd)
			if err != nil {
				continue
			}
			inode, ok := strings.CutPrefix(name, "socket:[")
			if port := at[strings.TrimSuffix(inode, "]")]; ok && port != 0 {
				ports = append(ports, port)
			}
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), nil
}

// listeners reads a table of sockets (proc_net_tcp.txt of the kernel's documentation).
func listeners(file string, at map[string]int) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		c := strings.Fields(lines.Text())
		if len(c) < 10 || c[3] != "0A" { // TCP_LISTEN
			continue
		}
		_, hex, _ := strings.Cut(c[1], ":")
		if port, err := strconv.ParseUint(hex, 16, 16); err == nil {
			at[c[9]] = int(port)
		}
	}
	return nil
}
