package cell

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"sync"
	"testing"
	"time"
)

// placed is a container that is nothing but its addresses.
type placed struct {
	Container
	at []Address
}

func (p placed) Info() Info { return Info{Addresses: p.at} }

// BenchmarkProbe is one probe of an app on the loopback interface; beside it what it does without us: a
// connection, and a GET by net/http, of which a prober would use a new connection each time, too.
func BenchmarkProbe(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") }))
	b.Cleanup(srv.Close)
	host := srv.Listener.Addr().String()
	a, err := New(AgentConfig{ID: "c", Runtime: NewMemory(MemoryConfig{})})
	if err != nil {
		b.Fatal(err)
	}
	j := &job{a: a, con: placed{at: []Address{{Port: 8080, Host: host}}}}
	ours := func(p Probe) func() {
		p.defaults()
		probe := j.prober(p)
		return func() {
			if u := probe(b.Context()); u != nil {
				b.Fatal(u.text)
			}
		}
	}
	for _, c := range []struct {
		name string
		do   func()
	}{
		{"dial", func() {
			c, err := net.Dial("tcp", host)
			if err != nil {
				b.Fatal(err)
			}
			c.Close()
		}},
		{"port", ours(Probe{Type: "port"})},
		{"net-http", func() {
			tr := &http.Transport{DisableKeepAlives: true}
			ctx, cancel := context.WithTimeout(b.Context(), time.Second)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL, nil)
			if err != nil {
				b.Fatal(err)
			}
			resp, err := tr.RoundTrip(req)
			if err != nil {
				b.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
		}},
		{"http", ours(Probe{Type: "http"})},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.do()
			}
		})
	}
}

// BenchmarkAgenda is what one probe costs beside the probe itself, with so many instances.
func BenchmarkAgenda(b *testing.B) {
	for _, n := range []int{100, 1000, 10_000, 100_000} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			a := &agenda{width: probesAtOnce, most: slowProbes}
			for range n {
				a.add(time.Hour, func() (time.Duration, bool) { return 0, false })
			}
			var wg sync.WaitGroup
			wg.Add(1)
			left := 0
			first := make(chan struct{})
			e := a.add(0, func() (time.Duration, bool) {
				<-first
				if left--; left == 0 {
					wg.Done()
				}
				return 0, left > 0
			})
			left = b.N
			b.ResetTimer()
			close(first)
			wg.Wait()
			b.StopTimer()
			e.remove()
			a.mu.Lock()
			defer a.mu.Unlock()
			a.timer.Stop()
		})
	}
}
