package router

import (
	"cmp"
	"crypto/tls"
	"io"
	"log"
	"log/slog"
	"net/http"
	"time"
)

// ServerConfig is how the server in front of a Router works. The zero ServerConfig means a
// server without TLS, and Cloud Foundry's times.
type ServerConfig struct {
	// Certificate returns the certificate for a name that a client asks for; it is called
	// for each handshake, so certificates may change at any time. nil: no TLS.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// HeaderTimeout is how long a client may take for the TLS handshake, and how long for
	// the head of a request; 0: 10 s.
	HeaderTimeout time.Duration
	// IdleTimeout is how long a connection without requests is kept; 0: 900 s.
	IdleTimeout time.Duration
	// Logger hears of connections that failed; nil: nobody does.
	Logger *slog.Logger
}

// NewServer returns a server that bounds what a client can do to a Router: the time for a
// head, its size (1 MB, then the answer is status 431), idle connections, TLS before 1.2.
// With TLS it speaks HTTP/2 and HTTP/1.1 as the client chooses (call ServeTLS with no
// files), without TLS also HTTP/2 to clients that know of it beforehand. How long bodies may
// take is Config.BodyTimeout's.
func NewServer(h http.Handler, c ServerConfig) *http.Server {
	s := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: cmp.Or(c.HeaderTimeout, 10*time.Second),
		IdleTimeout:       cmp.Or(c.IdleTimeout, 900*time.Second),
		MaxHeaderBytes:    maxHead,
		Protocols:         new(http.Protocols),
		ErrorLog:          log.New(io.Discard, "", 0),
	}
	if c.Logger != nil {
		s.ErrorLog = slog.NewLogLogger(c.Logger.Handler(), slog.LevelWarn)
	}
	s.Protocols.SetHTTP1(true)
	if c.Certificate == nil {
		s.Protocols.SetUnencryptedHTTP2(true)
		return s
	}
	s.Protocols.SetHTTP2(true)
	s.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.Certificate}
	return s
}
