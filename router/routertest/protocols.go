package routertest

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/dewpoint-go/dewpoint/router"
)

// http2App is an instance that understands nothing but HTTP/2 without TLS.
func (h *house) http2App(index int, serve http.HandlerFunc) router.Backend {
	s := httptest.NewUnstartedServer(serve)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	h.t.Cleanup(s.Close)
	b := backend(index, strings.TrimPrefix(s.URL, "http://"))
	b.Protocol = "http2"
	return b
}

// client returns a client of one protocol; with TLS the server is another one.
func (h *house) client(http2, secure bool) (c *http.Transport, url string) {
	c = &http.Transport{Protocols: new(http.Protocols), DisableCompression: true}
	url = h.front.URL
	if secure {
		s := httptest.NewUnstartedServer(nil)
		certificate := httptest.NewUnstartedServer(nil)
		certificate.StartTLS() // for a certificate that clients can be told to trust
		h.t.Cleanup(certificate.Close)
		s.Config = router.NewServer(h.h, router.ServerConfig{Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &certificate.TLS.Certificates[0], nil
		}})
		go func() { _ = s.Config.ServeTLS(s.Listener, "", "") }()
		h.t.Cleanup(func() { _ = s.Config.Close() })
		url = "https://" + s.Listener.Addr().String()
		c.TLSClientConfig = certificate.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	}
	c.Protocols.SetHTTP1(!http2)
	c.Protocols.SetHTTP2(http2 && secure)
	c.Protocols.SetUnencryptedHTTP2(http2 && !secure)
	h.t.Cleanup(c.CloseIdleConnections)
	return c, url
}

// testProtocols sends requests with bodies and trailers both ways by every protocol that a
// client and an app may have.
func testProtocols(t *testing.T, h *house) {
	app := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-End")
		w.Header().Set("X-Proto", r.Header.Get("X-Forwarded-Proto"))
		w.WriteHeader(http.StatusAccepted)
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
		w.Header().Set("X-End", "sum:"+r.Trailer.Get("X-Sum")+" "+r.Proto)
		w.Header().Set(http.TrailerPrefix+"X-Unannounced", "too")
	}
	h.start(router.Config{}, router.Route{Host: "one", Backends: []router.Backend{h.app(0, app)}},
		router.Route{Host: "two", Backends: []router.Backend{h.http2App(1, app)}})
	big := strings.Repeat("0123456789", 50_000)
	for _, way := range []struct {
		name          string
		http2, secure bool
	}{{"http", false, false}, {"https", false, true}, {"h2c", true, false}, {"h2", true, true}} {
		c, url := h.client(way.http2, way.secure)
		for host, spoken := range map[string]string{"one": "HTTP/1.1", "two": "HTTP/2.0"} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				var body io.Reader
				sum := ""
				if method == http.MethodPost {
					body, sum = io.MultiReader(strings.NewReader(big)), "sum"
				}
				req, err := http.NewRequestWithContext(t.Context(), method, url, body)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = host
				if body != nil {
					req.Trailer = http.Header{"X-Sum": {sum}}
				}
				res, err := c.RoundTrip(req)
				if err != nil {
					t.Errorf("%s to %s: %v", way.name, host, err)
					continue
				}
				text, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != http.StatusAccepted || body != nil && string(text) != big {
					t.Errorf("%s to %s: %d, %d bytes, %v", way.name, host, res.StatusCode, len(text), err)
				}
				if e := res.Trailer.Get("X-End"); e != "sum:"+sum+" "+spoken || res.Trailer.Get("X-Unannounced") != "too" {
					t.Errorf("%s %s to %s: trailers are %v, want %s in %s", method, way.name, host, res.Trailer, sum, spoken)
				}
				if want := map[bool]string{true: "https", false: "http"}[way.secure]; res.Header.Get("X-Proto") != want {
					t.Errorf("%s: X-Forwarded-Proto is %q", way.name, res.Header.Get("X-Proto"))
				}
			}
		}
	}
}

// testEarlyHints holds that responses which come before the real one pass.
func testEarlyHints(t *testing.T, h *house) {
	app := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("X-Real", "yes")
		_, _ = io.Copy(w, r.Body)
	}
	h.start(router.Config{}, router.Route{Host: "one", Backends: []router.Backend{h.app(0, app)}},
		router.Route{Host: "two", Backends: []router.Backend{h.http2App(1, app)}})
	for _, http2 := range []bool{false, true} {
		c, url := h.client(http2, false)
		for _, host := range []string{"one", "two"} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				var hints []string
				ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
					Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
						hints = append(hints, fmt.Sprint(code, header))
						return nil
					},
				})
				var body io.Reader
				if method == http.MethodPost {
					body = strings.NewReader("body")
				}
				req, err := http.NewRequestWithContext(ctx, method, url, body)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = host
				res, err := c.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				text, _ := io.ReadAll(res.Body)
				res.Body.Close()
				if len(hints) != 1 || !strings.Contains(hints[0], "103 map[Link:[</style.css>; rel=preload]") {
					t.Errorf("%s to %s, HTTP/2 %v: hints are %v", method, host, http2, hints)
				}
				if res.StatusCode != 200 || res.Header.Get("X-Real") != "yes" || method == http.MethodPost && string(text) != "body" {
					t.Errorf("%s to %s, HTTP/2 %v: answer is %d %q %v", method, host, http2, res.StatusCode, text, res.Header)
				}
			}
		}
	}
}

// testContinue holds that a client which waits with its body hears from the app whether it
// shall send it.
func testContinue(t *testing.T, h *house) {
	h.start(router.Config{}, router.Route{Host: "takes", Backends: []router.Backend{h.app(0, echo)}},
		router.Route{Host: "refuses", Backends: []router.Backend{h.app(1, func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusExpectationFailed)
		})}})
	talk := func(host string) (net.Conn, *bufio.Reader) {
		conn, err := net.Dial("tcp", h.front.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n", host)
		return conn, bufio.NewReader(conn)
	}
	conn, br := talk("takes")
	for _, want := range []int{100, 200} {
		res, err := http.ReadResponse(br, nil)
		if err != nil || res.StatusCode != want {
			t.Fatalf("answer is %v %v, want %d", res, err, want)
		}
		if want == 100 {
			fmt.Fprint(conn, "body")
			continue
		}
		text, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if string(text) != "body" {
			t.Errorf("answer is %q", text)
		}
	}
	_, br = talk("refuses")
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusExpectationFailed {
		t.Errorf("answer is %d, want 417 and not to be asked for the body", res.StatusCode)
	}
}

// testStream has an app that makes its response piece by piece, each when the client has
// the one before: the head first.
func testStream(t *testing.T, h *house) {
	got := make(chan struct{})
	app := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", r.Header.Get("Accept"))
		rc := http.NewResponseController(w)
		for i := range 5 {
			if i > 0 {
				fmt.Fprintln(w, "piece", i)
			}
			if err := rc.Flush(); err != nil {
				t.Errorf("flush: %v", err)
			}
			<-got
		}
	}
	h.start(router.Config{}, router.Route{Host: "one", Backends: []router.Backend{h.app(0, app)}},
		router.Route{Host: "two", Backends: []router.Backend{h.http2App(1, app)}})
	for _, http2 := range []bool{false, true} {
		c, url := h.client(http2, false)
		for _, host := range []string{"one", "two"} {
			for _, method := range []string{http.MethodGet, http.MethodPost} {
				req, err := http.NewRequestWithContext(t.Context(), method, url, nil)
				if err != nil {
					t.Fatal(err)
				}
				req.Host = host
				req.Header.Set("Accept", map[string]string{"GET": "text/plain", "POST": "text/event-stream"}[method])
				res, err := c.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				got <- struct{}{}
				br := bufio.NewReader(res.Body)
				for i := 1; i < 5; i++ {
					if line, err := br.ReadString('\n'); line != fmt.Sprintf("piece %d\n", i) {
						t.Errorf("%s to %s, HTTP/2 %v: got %q, %v", method, host, http2, line, err)
					}
					got <- struct{}{}
				}
				if _, err := br.ReadByte(); err != io.EOF {
					t.Errorf("%s to %s, HTTP/2 %v: the end is %v", method, host, http2, err)
				}
				res.Body.Close()
			}
		}
	}
}
