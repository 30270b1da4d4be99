package router_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/router"
)

const connections = 64

// BenchmarkProxy sends small GETs over 64 connections: straight to the app, through
// httputil.ReverseProxy as it comes, and through a Router; each in turn for a moment, so that
// what else the machine does falls on all alike. One op is a round of all three.
func BenchmarkProxy(b *testing.B) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer app.Close()
	target, err := url.Parse(app.URL)
	if err != nil {
		b.Fatal(err)
	}
	plain := httputil.NewSingleHostReverseProxy(target)
	plain.Transport = &http.Transport{MaxIdleConnsPerHost: 2 * connections}
	r := router.New(router.Config{})
	r.SetTable(router.NewTable([]router.Route{{Host: "app.example.com", Backends: []router.Backend{
		{App: "app", Instance: "i", Addr: strings.TrimPrefix(app.URL, "http://")},
	}}}))
	defer r.SetTable(nil)
	first, second := httptest.NewServer(plain), httptest.NewServer(r)
	defer first.Close()
	defer second.Close()
	client := &http.Transport{MaxIdleConnsPerHost: 2 * connections}
	defer client.CloseIdleConnections()
	ways := []struct {
		name, url string
		took      time.Duration
	}{{name: "direct", url: app.URL}, {name: "ReverseProxy", url: first.URL}, {name: "router", url: second.URL}}
	const each = 20
	for i := range ways {
		burst(b, client, ways[i].url, 1) // opens the connections
	}
	n := 0
	for b.Loop() {
		n++
		for i := range ways {
			from := time.Now()
			burst(b, client, ways[i].url, each)
			ways[i].took += time.Since(from)
		}
	}
	for _, w := range ways {
		b.ReportMetric(float64(n*each*connections)/w.took.Seconds(), w.name+"/s")
	}
	b.ReportMetric(ways[1].took.Seconds()/ways[2].took.Seconds(), "router:ReverseProxy")
}

// burst sends some requests over each connection.
func burst(b *testing.B, client *http.Transport, url string, each int) {
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			for range each {
				req, err := http.NewRequest(http.MethodGet, url, nil)
				if err != nil {
					b.Error(err)
					return
				}
				req.Host = "app.example.com"
				res, err := client.RoundTrip(req)
				if err != nil {
					b.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if res.StatusCode != http.StatusOK {
					b.Error(res.Status)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkServe is what one small GET costs in processor and memory, without a network in
// front: through httputil.ReverseProxy as it comes, and through a Router.
func BenchmarkServe(b *testing.B) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello")
	}))
	defer app.Close()
	target, err := url.Parse(app.URL)
	if err != nil {
		b.Fatal(err)
	}
	r := router.New(router.Config{})
	r.SetTable(router.NewTable([]router.Route{{Host: "app.example.com", Backends: []router.Backend{
		{App: "app", Instance: "i", Addr: strings.TrimPrefix(app.URL, "http://")},
	}}}))
	defer r.SetTable(nil)
	for name, h := range map[string]http.Handler{"ReverseProxy": httputil.NewSingleHostReverseProxy(target), "Router": r} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, "http://app.example.com/", nil))
				if w.Code != http.StatusOK {
					b.Fatal(w.Code)
				}
			}
		})
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
