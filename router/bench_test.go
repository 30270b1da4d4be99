package router_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"testing"

	"github.com/dewpoint-go/dewpoint/router"
)

// BenchmarkProxy sends small GETs over 64 connections: straight to the app, through
// httputil.ReverseProxy as it comes, and through a Router.
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
	plain.Transport = &http.Transport{MaxIdleConnsPerHost: 100}
	r := router.New(router.Config{})
	r.SetTable(router.NewTable([]router.Route{{Host: "app.example.com", Backends: []router.Backend{
		{App: "app", Instance: "i", Addr: strings.TrimPrefix(app.URL, "http://")},
	}}}))
	defer r.SetTable(nil)
	for _, c := range []struct {
		name    string
		handler http.Handler
	}{{"Direct", nil}, {"ReverseProxy", plain}, {"Router", r}} {
		b.Run(c.name, func(b *testing.B) {
			front := app
			if c.handler != nil {
				front = httptest.NewServer(c.handler)
				defer front.Close()
			}
			client := &http.Transport{MaxIdleConnsPerHost: 100}
			defer client.CloseIdleConnections()
			b.SetParallelism(32)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					req, _ := http.NewRequest(http.MethodGet, front.URL, nil)
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
		})
	}
}
