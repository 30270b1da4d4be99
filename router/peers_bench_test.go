package router_test

import (
	"bufio"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/router"
)

// A proxy that runs already can be measured beside the others, if it passes the host app.example.com on to the app.
var (
	appFlag  = flag.String("router.app", "127.0.0.1:0", "where the app of the benchmarks listens")
	peerFlag = flag.String("router.peer", "", "NAME,ADDRESS,PID of another proxy for BenchmarkPeers and BenchmarkAdded")
)

// peerGiven returns the proxy that was given; "": none.
func peerGiven(b *testing.B) (name, addr string, pid int) {
	b.Helper()
	if *peerFlag == "" {
		return "", "", 0
	}
	f := strings.Split(*peerFlag, ",")
	if len(f) != 3 {
		b.Fatalf("-router.peer is %q; write NAME,ADDRESS,PID", *peerFlag)
	}
	pid, err := strconv.Atoi(f[2])
	if err != nil {
		b.Fatal(err)
	}
	return f[0], f[1], pid
}

const roleVariable = "ROUTER_BENCH_ROLE"

const (
	small    = "GET /some/path?and=query HTTP/1.1\r\nHost: app.example.com\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n"
	response = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
)

// play is what a process of BenchmarkPeers does: it serves on a port of its own, which it
// prints, and sends requests on to the address given; the app serves there.
func play(role, app string) {
	at := "127.0.0.1:0"
	if role == "app" {
		at = app
	}
	l, err := net.Listen("tcp", at)
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr())
	target := &url.URL{Scheme: "http", Host: app}
	switch role {
	case "app":
		playApp(l)
	case "ReverseProxy":
		p := httputil.NewSingleHostReverseProxy(target)
		p.Transport = &http.Transport{MaxIdleConnsPerHost: 2 * connections}
		panic(http.Serve(l, p))
	case "router":
		r := router.New(router.Config{})
		r.SetTable(router.NewTable([]router.Route{{Host: "app.example.com", Backends: []router.Backend{{App: "app", Instance: "i", Addr: app}}}}))
		panic(router.NewServer(r, router.ServerConfig{}).Serve(l))
	}
}

// playApp answers each head with the same bytes: the app shall cost next to nothing.
func playApp(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			defer conn.Close()
			br := bufio.NewReader(conn)
			for {
				for {
					line, err := br.ReadSlice('\n')
					if err != nil {
						return
					}
					if len(line) == 2 {
						break
					}
				}
				if _, err := io.WriteString(conn, response); err != nil {
					return
				}
			}
		}()
	}
}

// process starts a process of this program in a role.
func process(b *testing.B, role, app string) (addr string, pid int) {
	b.Helper()
	c := exec.Command(os.Args[0])
	c.Env = append(os.Environ(), roleVariable+"="+role+" "+app)
	out, err := c.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(line), c.Process.Pid
}

// nginx starts nginx with one worker; pid is the worker's. "" if there is no nginx.
func nginx(b *testing.B, app string) (addr string, pid int) {
	b.Helper()
	path, err := exec.LookPath("nginx")
	if err != nil {
		return "", 0
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	addr = l.Addr().String()
	l.Close()
	dir := b.TempDir()
	temp := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	conf := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; error_log %s/error crit; pid %s/pid;
events { worker_connections 1024; }
http { access_log off; %s keepalive_requests 1000000000;
upstream app { server %s; keepalive 256; keepalive_requests 1000000000; }
server { listen %s; location / { proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Request-Start $msec; proxy_set_header X-Vcap-Request-Id $request_id; } } }`, dir, dir, temp, app, addr)
	file := filepath.Join(dir, "conf")
	if err := os.WriteFile(file, []byte(conf), 0o600); err != nil {
		b.Fatal(err)
	}
	c := exec.Command(path, "-c", file, "-p", dir)
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = c.Process.Kill()
		_ = c.Wait()
	})
	for { // until it listens
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			conn.Close()
			return addr, c.Process.Pid
		}
		if c.Process.Signal(syscall.Signal(0)) != nil {
			b.Fatal("nginx did not start")
		}
	}
}

// cpu returns the processor time that a process has used.
func cpu(b *testing.B, pid int) time.Duration {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		b.Skip("needs /proc")
	}
	f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// pump sends requests over one connection until there are enough, one in each pause, the
// first after the time given.
func pump(addr string, n int, first, pause time.Duration, took []time.Duration) error {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	br := bufio.NewReader(conn)
	<-time.After(first)
	tick := time.NewTicker(max(pause, 1))
	defer tick.Stop()
	for i := range n {
		if pause > 0 {
			<-tick.C
		}
		from := time.Now()
		if _, err := io.WriteString(conn, small); err != nil {
			return err
		}
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return err
		}
		text, err := io.ReadAll(res.Body)
		if err != nil || string(text) != "hello" {
			return fmt.Errorf("answer is %q, %w", text, err)
		}
		if took != nil {
			took[i] = time.Since(from)
		}
	}
	return nil
}

func pumps(b *testing.B, addr string, n int, pause time.Duration) (all []time.Duration) {
	b.Helper()
	var wg sync.WaitGroup
	all = make([]time.Duration, connections*n)
	for i := range connections {
		wg.Go(func() {
			if err := pump(addr, n, time.Duration(i)*pause/connections, pause, all[i*n:(i+1)*n]); err != nil {
				b.Error(err)
			}
		})
	}
	wg.Wait()
	return all
}

// BenchmarkPeers sends small GETs over 64 connections to processes that pass them on to the
// same app: nginx with one worker (if there is one on the machine), httputil.ReverseProxy as
// it comes, a Router. Each takes its turn. Beside requests per second it reports the
// processor time that each process spends on one, which says how many it could pass on if
// it had the cores for itself; it is Linux's.
func BenchmarkPeers(b *testing.B) {
	app, _ := process(b, "app", *appFlag)
	type peer struct {
		name, addr string
		pid        int
		took, cpu  time.Duration
	}
	var peers []peer
	if addr, pid := nginx(b, app); addr != "" {
		peers = append(peers, peer{name: "nginx", addr: addr, pid: pid})
	}
	if name, addr, pid := peerGiven(b); name != "" {
		peers = append(peers, peer{name: name, addr: addr, pid: pid})
	}
	for _, role := range []string{"ReverseProxy", "router"} {
		addr, pid := process(b, role, app)
		peers = append(peers, peer{name: role, addr: addr, pid: pid})
	}
	const each = 300
	n := 0
	for b.Loop() {
		n += each * connections
		for i := range peers {
			p := &peers[i]
			from, used := time.Now(), cpu(b, p.pid)
			pumps(b, p.addr, each, 0)
			p.took += time.Since(from)
			p.cpu += cpu(b, p.pid) - used
		}
	}
	for _, p := range peers {
		b.ReportMetric(float64(n)/p.took.Seconds(), p.name+"/s")
		b.ReportMetric(float64(p.cpu.Microseconds())/float64(n), p.name+"-cpu-µs")
	}
}

// BenchmarkAdded measures the time that a Router adds to a request at half of what it can
// pass on here: the app is asked directly, and through it and its peers, in turns and at the
// same rate.
func BenchmarkAdded(b *testing.B) {
	app, _ := process(b, "app", *appFlag)
	ways := map[string]string{"direct": app}
	for _, role := range []string{"ReverseProxy", "router"} {
		ways[role], _ = process(b, role, app)
	}
	if addr, _ := nginx(b, app); addr != "" {
		ways["nginx"] = addr
	}
	if name, addr, _ := peerGiven(b); name != "" {
		ways[name] = addr
	}
	const each = 200
	pumps(b, ways["router"], each, 0)
	pause := time.Duration(2 * connections / pumpsPerSecond(b, ways["router"], each) * float64(time.Second))
	took := map[string][]time.Duration{}
	for b.Loop() {
		for name, addr := range ways {
			took[name] = append(took[name], pumps(b, addr, each, pause)...)
		}
	}
	for name, all := range took {
		slices.Sort(all)
		for _, part := range []int{50, 99} {
			b.ReportMetric(float64(all[len(all)*part/100].Microseconds())/1000, fmt.Sprintf("%s-p%d-ms", name, part))
		}
	}
	b.ReportMetric(float64(time.Second/pause)*connections, "requests/s")
}

func pumpsPerSecond(b *testing.B, addr string, each int) float64 {
	from := time.Now()
	pumps(b, addr, each, 0)
	return float64(connections*each) / time.Since(from).Seconds()
}
