package routertest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/dewpoint-go/dewpoint/router"
)

// authority signs certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t, pool: x509.NewCertPool()}
	a.cert, a.key = a.sign(&x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign})
	a.pool.AddCert(a.cert)
	return a
}

func (a *authority) sign(c *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	c.NotBefore, c.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	parent, by := a.cert, a.key
	if parent == nil {
		parent, by = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return made, key
}

// of returns a certificate for a name.
func (a *authority) of(name string) tls.Certificate {
	a.t.Helper()
	c, key := a.sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}})
	return tls.Certificate{Certificate: [][]byte{c.Raw}, PrivateKey: key}
}

// tlsApp starts an instance that is to be called instance-INDEX, and counts its connections.
func (h *house) tlsApp(index int, serve http.HandlerFunc, conf *tls.Config) (b router.Backend, conns *atomic.Int32) {
	h.t.Helper()
	conns = new(atomic.Int32)
	s := httptest.NewUnstartedServer(serve)
	s.TLS, s.EnableHTTP2 = conf, len(conf.NextProtos) == 0
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Config.ConnState = func(_ net.Conn, st http.ConnState) {
		if st == http.StateNew {
			conns.Add(1)
		}
	}
	s.StartTLS()
	h.t.Cleanup(s.Close)
	b = backend(index, strings.TrimPrefix(s.URL, "https://"))
	b.ServerName = b.Instance
	return b, conns
}

// testTLS holds how apps are spoken to that have certificates, and what is told of those that have not the right ones.
func testTLS(t *testing.T, h *house) {
	ca, stranger := newAuthority(t), newAuthority(t)
	mine := ca.of("the-router")
	says := func(w http.ResponseWriter, r *http.Request) {
		peer := "nobody"
		if len(r.TLS.PeerCertificates) > 0 {
			peer = r.TLS.PeerCertificates[0].Subject.CommonName
		}
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s to %s: %s", peer, r.Proto, body)
	}
	with := func(c tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c}} }
	asking := func(version uint16) *tls.Config {
		c := with(ca.of("instance-0"))
		c.ClientAuth, c.ClientCAs, c.MaxVersion = tls.RequireAndVerifyClientCert, ca.pool, version
		return c
	}
	good, goodConns := h.tlsApp(0, says, with(ca.of("instance-0")))
	modern := good
	modern.Protocol = "http2"
	other, otherConns := h.tlsApp(0, says, with(ca.of("instance-7")))
	untrusted, _ := h.tlsApp(0, says, with(stranger.of("instance-0")))
	old := with(ca.of("instance-0"))
	old.MaxVersion = tls.VersionTLS11
	tooOld, _ := h.tlsApp(0, says, old)
	one := with(ca.of("instance-0"))
	one.NextProtos = []string{"http/1.1"}
	oneOnly, _ := h.tlsApp(0, says, one)
	oneOnly.Protocol = "http2"
	asks12, _ := h.tlsApp(0, says, asking(tls.VersionTLS12))
	asks13, _ := h.tlsApp(0, says, asking(tls.VersionTLS13))
	plain := h.app(0, name("plain"))
	plain.ServerName = "instance-0"
	mute := h.mute()
	well, _ := h.tlsApp(1, says, with(ca.of("instance-1")))

	const text = ": Registered endpoint failed to handle the request.\n"
	for _, c := range []struct {
		name   string
		b      router.Backend
		shows  bool // the router has a certificate
		status int
		body   string
	}{
		{"certificate of the instance", good, false, 200, "nobody to HTTP/1.1: "},
		{"HTTP/2", modern, false, 200, "nobody to HTTP/2.0: "},
		{"certificate of another instance", other, false, 503, "503 Service Unavailable" + text},
		{"certificate that nobody vouches for", untrusted, false, 526, "526 Invalid SSL Certificate" + text},
		{"without TLS", plain, false, 525, "525 SSL Handshake Failed" + text},
		{"no handshake", mute, false, 525, "525 SSL Handshake Failed" + text},
		{"too old", tooOld, false, 525, "525 SSL Handshake Failed" + text},
		{"HTTP/2 that it does not speak", oneOnly, false, 525, "525 SSL Handshake Failed" + text},
		{"asks for a certificate, TLS 1.2", asks12, false, 496, "496 SSL Certificate Required" + text},
		{"asks for a certificate, TLS 1.3", asks13, false, 496, "496 SSL Certificate Required" + text},
		{"gets a certificate, TLS 1.2", asks12, true, 200, "the-router to HTTP/1.1: "},
		{"gets a certificate, TLS 1.3", asks13, true, 200, "the-router to HTTP/1.1: "},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &house{t: t, open: h.open}
			conf := router.Config{BackendTLS: &tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS12}, HandshakeTimeout: 10 * time.Second}
			if c.name == "no handshake" {
				conf.HandshakeTimeout = 50 * time.Millisecond
			}
			if c.shows {
				conf.BackendTLS.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &mine, nil }
			}
			h.start(conf, router.Route{Host: "app", Backends: []router.Backend{c.b}}, router.Route{Host: "two", Backends: []router.Backend{c.b, well}})
			reason := ""
			if c.status != 200 {
				reason = "endpoint_failure"
			}
			h.want(h.get("app", "/"), c.status, reason, c.body)
			if c.status == 200 {
				h.want(h.get("app", "/"), 200, "", c.body)
				return
			}
			// Nothing reached the app, so another one gets the request.
			for range 4 {
				h.want(h.get("two", "/"), 200, "", "nobody to HTTP/1.1: ")
			}
			if c.status != 496 { // in TLS 1.3 the app may have got some of the body before it refused
				h.want(h.send("POST", "two", "/", bytes.NewBufferString("once")), 200, "", "nobody to HTTP/1.1: once")
			}
		})
	}
	if n := goodConns.Load(); n != 2 { // one in HTTP/1.1, one in HTTP/2
		t.Errorf("four requests made %d connections", n)
	}
	if n := otherConns.Load(); n != 1 {
		t.Errorf("an app with another's certificate was tried %d times; there was another one after the first", n)
	}
}

// mute is an instance that takes connections and says nothing.
func (h *house) mute() router.Backend {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		h.t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	h.t.Cleanup(func() { l.Close(); <-ended })
	b := backend(0, l.Addr().String())
	b.ServerName = b.Instance
	return b
}

func testUpgradeTLS(t *testing.T, h *house) {
	ca := newAuthority(t)
	b, _ := h.tlsApp(0, h.talk(), &tls.Config{Certificates: []tls.Certificate{ca.of("instance-0")}})
	h.upgrades(router.Config{BackendTLS: &tls.Config{RootCAs: ca.pool, MinVersion: tls.VersionTLS12}}, b)
}
