package celltest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// The suites run one program, which does what its arguments say, one after the other:
//
//	out=TEXT err=TEXT       prints a line
//	raw=TEXT                prints TEXT, without a line feed
//	lines=N                 prints "line 1" to "line N"
//	bytes=N                 prints N bytes of any value on both outputs at once, see Bytes
//	exit=N                  ends with status N
//	copy                    prints its input to the end of that
//	line                    reads a line of its input and prints "line LINE"
//	terminal                prints "terminal COLUMNSxROWS of its own" if its input is a terminal that is its own, else why not
//	wait                    waits for TERM
//	hang                    waits for KILL
//	cat=FILE                prints a file, or says "absent FILE"
//	write=FILE:TEXT         writes a file
//	await=FILE              waits until a file is there, or for TERM
//	eat=N                   takes N MiB of memory, keeps them and prints "eaten"
//	open=N                  opens N files, or says why not and ends with status 1
//	child                   leaves a process behind that does nothing, in a session of its own, and holds the output;
//	                        in a cell.Memory there is none
//	elsewhere               listens on a port that nobody has asked for, prints it, and goes on; in a
//	                        cell.Memory there is none, and it says so
//	env=NAME                prints "NAME=VALUE"
//	dir                     prints the working folder
//	serve                   answers HTTP at $PORT with 200 until TERM, then goes on
//	serve=CODE              the same with another status
//	app                     a server at $PORT with many sides, see app, until TERM; then it goes on
//	once                    takes one connection at $PORT, reads a byte, and goes on; the
//	                        connection ends with the program
//
// At its end it exits with 0. MemoryProgram and Main are the two shapes of it.

// machine is what the program needs of its surroundings.
type machine struct {
	ctx            context.Context // ends at TERM
	killed         <-chan struct{} // nil: KILL needs no help
	stdin          io.Reader
	stdout, stderr io.Writer
	getenv         func(string) string
	read           func(string) ([]byte, error)
	write          func(string, []byte) error
	listen         func(port int) (net.Listener, error)
	dir            string
	os             bool        // it is a process, with files and ports of the machine
	open           []io.Closer // to its end
	eaten          [][]byte    // and these
}

// Bytes are what the program prints for bytes=N: on standard output those of variant 0, on
// standard error those of variant 1. They do not end with a line feed.
func Bytes(n int, variant byte) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{variant}).Read(b) // never fails
	if n > 0 {
		b[n-1] = 0
	}
	return b
}

// MemoryProgram is the suites' program for a cell.Memory.
func MemoryProgram(ctx context.Context, p cell.MemoryProcess) int {
	m := machine{ctx: ctx, killed: p.Killed, stdin: p.Stdin, stdout: p.Stdout, stderr: p.Stderr, getenv: p.Getenv,
		read: p.ReadFile, listen: p.Listen, dir: p.Dir}
	m.write = func(name string, b []byte) error { return p.WriteFile(name, b, 0o644) }
	return m.run(p.Args)
}

// Main is the suites' program as a process of its own. A test calls it from TestMain, if
// its arguments say so, and exits with what it returns.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	m := machine{ctx: ctx, os: true, stdin: os.Stdin, stdout: os.Stdout, stderr: os.Stderr, getenv: os.Getenv, read: os.ReadFile}
	m.write = func(name string, b []byte) error { return os.WriteFile(name, b, 0o600) }
	m.listen = func(port int) (net.Listener, error) { return net.Listen("tcp", ":"+strconv.Itoa(port)) }
	m.dir, _ = os.Getwd()
	return m.run(args)
}

func (m *machine) run(args []string) int {
	defer func() {
		for _, c := range m.open {
			_ = c.Close() // the program ends
		}
	}()
	for _, a := range args {
		verb, arg, _ := strings.Cut(a, "=")
		if code, end := m.do(verb, arg); end {
			return code
		}
	}
	return 0
}

func (m *machine) do(verb, arg string) (code int, end bool) {
	switch verb {
	case "out":
		fmt.Fprintln(m.stdout, arg)
	case "err":
		fmt.Fprintln(m.stderr, arg)
	case "raw":
		fmt.Fprint(m.stdout, arg)
	case "lines":
		n, _ := strconv.Atoi(arg)
		w := bufio.NewWriter(m.stdout)
		for i := range n {
			fmt.Fprintf(w, "line %d\n", i+1)
		}
		_ = w.Flush() // a reader that is gone does not concern the program
	case "bytes":
		n, _ := strconv.Atoi(arg)
		var wg sync.WaitGroup
		for i, w := range []io.Writer{m.stdout, m.stderr} {
			wg.Go(func() { _, _ = w.Write(Bytes(n, byte(i))) })
		}
		wg.Wait()
	case "once":
		return m.once()
	case "name":
		return m.byName(arg)
	case "exit":
		n, _ := strconv.Atoi(arg)
		return n, true
	case "eat":
		n, _ := strconv.Atoi(arg)
		for range n {
			b := make([]byte, 1<<20)
			for i := 0; i < len(b); i += 4096 {
				b[i] = 1
			}
			m.eaten = append(m.eaten, b)
		}
		fmt.Fprintln(m.stdout, "eaten")
	case "open":
		return m.openFiles(arg)
	case "elsewhere":
		return m.elsewhere()
	case "child":
		if m.os {
			return m.child()
		}
	case "await":
		for t := time.NewTicker(time.Millisecond); ; <-t.C {
			if _, err := m.read(arg); err == nil || m.ctx.Err() != nil {
				t.Stop()
				return 0, false
			}
		}
	case "copy":
		if _, err := io.Copy(m.stdout, m.stdin); err != nil {
			fmt.Fprintln(m.stderr, err)
		}
	case "line":
		var text string
		_, _ = fmt.Fscanln(m.stdin, &text)
		fmt.Fprintln(m.stdout, "line", text)
	case "terminal":
		fmt.Fprintln(m.stdout, terminal())
	case "wait":
		<-m.ctx.Done()
	case "hang":
		<-m.killed
		return 137, true
	case "cat":
		b, err := m.read(arg)
		if errors.Is(err, fs.ErrNotExist) {
			b, err = []byte("absent "+arg), nil
		}
		if err != nil {
			b = []byte(err.Error())
		}
		fmt.Fprintln(m.stdout, strings.TrimSuffix(string(b), "\n"))
	case "write":
		name, text, _ := strings.Cut(arg, ":")
		if err := m.write(name, []byte(text)); err != nil {
			fmt.Fprintln(m.stderr, err)
			return 1, true
		}
	case "env":
		fmt.Fprintln(m.stdout, arg+"="+m.getenv(arg))
	case "dir":
		fmt.Fprintln(m.stdout, m.dir)
	case "serve":
		return m.serve(arg)
	case "app":
		return m.app()
	default:
		fmt.Fprintf(m.stderr, "the suites' program does not know %q\n", verb)
		return 64, true
	}
	return 0, false
}

// byName prints on both outputs by their names in /dev, which only a process of a machine has.
func (m *machine) byName(text string) (code int, end bool) {
	for name, w := range map[string]io.Writer{"/dev/stdout": m.stdout, "/dev/stderr": m.stderr} {
		if m.os {
			f, err := os.OpenFile(name, os.O_WRONLY, 0)
			if err != nil {
				fmt.Fprintln(m.stderr, err)
				return 1, true
			}
			m.open = append(m.open, f)
			w = f
		}
		fmt.Fprintln(w, text)
	}
	return 0, false
}

func (m *machine) openFiles(arg string) (code int, end bool) {
	n, _ := strconv.Atoi(arg)
	for range n {
		if !m.os {
			break
		}
		f, err := os.Open(os.DevNull)
		if err != nil {
			fmt.Fprintln(m.stderr, err)
			return 1, true
		}
		m.open = append(m.open, f)
	}
	return 0, false
}

func (m *machine) child() (code int, end bool) {
	c := exec.Command("/bin/sh", "-c", "setsid sleep 1000 &")
	c.Stdout, c.Stderr = m.stdout, m.stderr
	if err := c.Run(); err != nil {
		fmt.Fprintln(m.stderr, err)
		return 1, true
	}
	return 0, false
}

func (m *machine) elsewhere() (code int, end bool) {
	if !m.os {
		fmt.Fprintln(m.stdout, "elsewhere")
		return 0, false
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fmt.Fprintln(m.stderr, err)
		return 1, true
	}
	m.open = append(m.open, l)
	fmt.Fprintln(m.stdout, "elsewhere", l.Addr().(*net.TCPAddr).Port)
	return 0, false
}

func (m *machine) once() (code int, end bool) {
	port, err := strconv.Atoi(m.getenv("PORT"))
	if err != nil {
		fmt.Fprintln(m.stderr, "PORT:", err)
		return 1, true
	}
	l, err := m.listen(port)
	if err == nil {
		m.open = append(m.open, l)
		fmt.Fprintln(m.stdout, "listening")
		var c net.Conn
		if c, err = l.Accept(); err == nil {
			m.open = append(m.open, c)
			_, err = c.Read(make([]byte, 1))
		}
	}
	if err != nil {
		fmt.Fprintln(m.stderr, err)
		return 1, true
	}
	return 0, false
}

func (m *machine) serve(arg string) (code int, end bool) {
	status := http.StatusOK
	if arg != "" {
		status, _ = strconv.Atoi(arg)
	}
	port, err := strconv.Atoi(m.getenv("PORT"))
	if err != nil {
		fmt.Fprintln(m.stderr, "PORT:", err)
		return 1, true
	}
	l, err := m.listen(port)
	if err != nil {
		fmt.Fprintln(m.stderr, err)
		return 1, true
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.Copy(w, bytes.NewReader([]byte("hello\n")))
	}), ReadHeaderTimeout: 0}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = srv.Serve(l) // ends by Close below
	}()
	<-m.ctx.Done()
	_ = srv.Close() // it ends with its program
	<-ended
	return 0, false
}
