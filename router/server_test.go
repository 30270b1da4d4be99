package router_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/router"
)

// certificate makes one for a name.
func certificate(t *testing.T, name string) (*tls.Certificate, *x509.Certificate) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, IsCA: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	leaf, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, leaf
}

// serve runs a server in front of a router with one app until the test ends.
func serve(t *testing.T, c router.ServerConfig) (addr string) {
	t.Helper()
	r := router.New(router.Config{})
	r.SetTable(router.NewTable([]router.Route{{Host: "*.example.com", Backends: []router.Backend{app(t, 1)}}}))
	s := router.NewServer(r, c)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan error)
	go func() {
		if c.Certificate != nil {
			done <- s.ServeTLS(l, "", "")
		} else {
			done <- s.Serve(l)
		}
	}()
	t.Cleanup(func() {
		s.Close()
		assert.ErrorIs(t, <-done, http.ErrServerClosed)
		r.SetTable(nil)
	})
	return l.Addr().String()
}

func TestCertificateByCallback(t *testing.T) {
	t.Parallel()
	roots := x509.NewCertPool()
	known := map[string]*tls.Certificate{}
	for _, name := range []string{"a.example.com", "b.example.com"} {
		c, leaf := certificate(t, name)
		known[name] = c
		roots.AddCert(leaf)
	}
	addr := serve(t, router.ServerConfig{Certificate: func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		if c := known[h.ServerName]; c != nil {
			return c, nil
		}
		return nil, errors.New("no certificate for " + h.ServerName)
	}})
	get := func(name string, version uint16, http2 bool) (*http.Response, error) {
		c := &http.Transport{
			TLSClientConfig:   &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS10, MaxVersion: version},
			ForceAttemptHTTP2: http2,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
			},
		}
		defer c.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+name+"/", nil)
		require.NoError(t, err)
		res, err := c.RoundTrip(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
		return res, err
	}
	for name := range known {
		for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
			for _, http2 := range []bool{false, true} {
				res, err := get(name, version, http2)
				require.NoError(t, err)
				assert.Equal(t, 200, res.StatusCode)
				assert.Equal(t, name, res.TLS.PeerCertificates[0].Subject.CommonName)
				assert.Equal(t, map[bool]int{false: 1, true: 2}[http2], res.ProtoMajor)
			}
		}
	}
	_, err := get("a.example.com", tls.VersionTLS11, false)
	require.Error(t, err, "TLS 1.1 is refused")
	_, err = get("c.example.com", tls.VersionTLS13, false)
	require.Error(t, err)
	next, leaf := certificate(t, "c.example.com")
	known["c.example.com"] = next
	roots.AddCert(leaf)
	_, err = get("c.example.com", tls.VersionTLS13, false)
	require.NoError(t, err, "certificates may come while the server runs")
}

// TestClientsAreBounded has clients that send a head too slowly, too big, or without end.
func TestClientsAreBounded(t *testing.T) {
	t.Parallel()
	addr := serve(t, router.ServerConfig{HeaderTimeout: 50 * time.Millisecond, IdleTimeout: 50 * time.Millisecond})
	dial := func() net.Conn {
		conn, err := net.Dial("tcp", addr)
		require.NoError(t, err)
		t.Cleanup(func() { conn.Close() })
		return conn
	}
	for _, part := range []string{"", "GET / HT", "GET / HTTP/1.1\r\nHost: a.example.com\r\n", "GET / HTTP/1.1\r\nHost: a.example.com\r\nX: ", "PRI * HTTP/2.0\r\n\r\n"} {
		conn := dial()
		fmt.Fprint(conn, part)
		_, err := io.Copy(io.Discard, conn) // until the server closes it
		assert.NoError(t, err, part)
	}
	conn := dial()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
	text, err := io.ReadAll(conn)
	require.NoError(t, err, "an idle connection is closed")
	assert.Contains(t, string(text), "HTTP/1.1 200")

	conn = dial()
	sent, err := io.Copy(conn, io.MultiReader(strings.NewReader("GET / HTTP/1.1\r\nHost: a.example.com\r\nX: "), endless{}))
	require.Error(t, err, "the server stops reading")
	assert.Less(t, sent, int64(64<<20))

	addr = serve(t, router.ServerConfig{})
	conn = dial()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a.example.com\r\nX: %s\r\n\r\n", strings.Repeat("x", 900<<10))
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	res.Body.Close()
	assert.Equal(t, 200, res.StatusCode, "a head of 900 kB passes")
	conn = dial()
	go func() {
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a.example.com\r\nX: %s\r\n\r\n", strings.Repeat("x", 1100<<10))
	}()
	res, err = http.ReadResponse(bufio.NewReader(conn), nil)
	require.NoError(t, err)
	res.Body.Close()
	assert.Equal(t, http.StatusRequestHeaderFieldsTooLarge, res.StatusCode)
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = 'x'
	}
	return len(p), nil
}

// TestHostileCaller holds that heads which only the library's way can pass are passed by it:
// a caller of ServeHTTP may hand over anything.
func TestHostileCaller(t *testing.T) {
	t.Parallel()
	r := router.New(router.Config{})
	defer r.SetTable(nil)
	got := make(chan http.Header, 1)
	s := newApp(t, func(_ http.ResponseWriter, r *http.Request) { got <- r.Header })
	r.SetTable(router.NewTable([]router.Route{{Host: "a", Backends: []router.Backend{s}}}))
	for name, change := range map[string]func(*http.Request){
		"value":         func(r *http.Request) { r.Header["X"] = []string{"a\r\nX-Evil: 1"} },
		"name":          func(r *http.Request) { r.Header["X: a\r\nX-Evil"] = []string{"1"} },
		"host":          func(r *http.Request) { r.Host = "a:80\r\nX-Evil: 1" },
		"query":         func(r *http.Request) { r.URL.RawQuery = "a HTTP/1.1\r\nX-Evil: 1\r\n\r\n" },
		"opaque":        func(r *http.Request) { r.URL.Opaque = "/ HTTP/1.1\r\nX-Evil: 1" },
		"request id":    func(r *http.Request) { r.Header["X-Vcap-Request-Id"] = []string{"a\r\nX-Evil: 1"} },
		"forwarded for": func(r *http.Request) { r.Header["X-Forwarded-For"] = []string{"a\r\nX-Evil: 1"} },
		"length":        func(r *http.Request) { r.Header["content-length"] = []string{"5"} },
		"coding":        func(r *http.Request) { r.Header["transfer-encoding"] = []string{"chunked"} },
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a/", nil)
		require.NoError(t, err)
		change(req)
		w := newWriter()
		r.ServeHTTP(w, req)
		select {
		case h := <-got:
			assert.Empty(t, h.Get("X-Evil"), name)
		default:
			assert.GreaterOrEqual(t, w.status, 400, name)
		}
	}
}

type writer struct {
	header http.Header
	status int
}

func newWriter() *writer { return &writer{header: http.Header{}} }

func (w *writer) Header() http.Header { return w.header }

func (w *writer) Write(p []byte) (int, error) { return len(p), nil }

func (w *writer) WriteHeader(status int) { w.status = status }
