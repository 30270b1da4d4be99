package router

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
)

// The statuses by which Cloud Foundry tells what is wrong between router and app.
const (
	statusCertRequired = 496 // the app wants a certificate that the router lacks
	statusHandshake    = 525 // no TLS came about
	statusUntrusted    = 526 // nobody whom the router trusts vouches for the app's certificate
)

// phrases are those of statuses that net/http does not know.
var phrases = map[int]string{
	499:                "Client Closed Request",
	statusCertRequired: "SSL Certificate Required",
	statusHandshake:    "SSL Handshake Failed",
	statusUntrusted:    "Invalid SSL Certificate",
}

// secure makes TLS of a connection to an app that is to prove who it is.
func (p *pool) secure(ctx context.Context, conn net.Conn, b *Backend, http2 bool) (net.Conn, error) {
	conf := p.conf.BackendTLS.Clone()
	if conf == nil {
		conf = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	conf.ServerName, conf.NextProtos = b.ServerName, []string{"http/1.1"}
	if http2 {
		conf.NextProtos = []string{"h2"}
	}
	ctx, cancel := context.WithTimeout(ctx, p.conf.HandshakeTimeout)
	defer cancel()
	bare := false // the app asked for a certificate, and the router has none
	own := conf.GetClientCertificate
	conf.GetClientCertificate = func(info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		c, err := clientCert(own, conf.Certificates, info)
		bare = err == nil && len(c.Certificate) == 0
		return c, err
	}
	c := tls.Client(conn, conf)
	err := c.HandshakeContext(ctx)
	if err == nil && http2 && c.ConnectionState().NegotiatedProtocol != "h2" {
		err = errors.New("tls: the app does not speak HTTP/2")
	}
	if err != nil {
		conn.Close()
		e := tlsFailure(err)
		if bare && strings.Contains(err.Error(), "remote error: tls:") { // before TLS 1.3 there is no alert for it
			e.status = statusCertRequired
		}
		return nil, e
	}
	return c, nil
}

// clientCert is what the library does where there is no callback.
func clientCert(own func(*tls.CertificateRequestInfo) (*tls.Certificate, error), have []tls.Certificate, info *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if own != nil {
		return own(info)
	}
	for i := range have {
		if info.SupportsCertificate(&have[i]) == nil {
			return &have[i], nil
		}
	}
	return &tls.Certificate{}, nil
}

// tlsFailure gives a failed handshake its status.
func tlsFailure(err error) *dialError {
	e := &dialError{err: fmt.Errorf("TLS: %w", err), status: statusHandshake}
	var name x509.HostnameError
	var untrusted *tls.CertificateVerificationError
	switch {
	case errors.As(err, &name): // somebody else has the address now
		e.status = http.StatusServiceUnavailable
	case errors.As(err, &untrusted):
		e.status = statusUntrusted
	case wantsCert(err):
		e.status = statusCertRequired
	}
	return e
}

// wantsCert tells the alerts by which an app refuses the router's certificate, or asks for one. The library has no
// type for them.
func wantsCert(err error) bool {
	s := err.Error()
	return strings.Contains(s, "remote error: tls: certificate required") || strings.Contains(s, "remote error: tls: bad certificate") ||
		strings.Contains(s, "remote error: tls: unknown certificate authority")
}

// late finds the refusal of the router's certificate, which in TLS 1.3 comes after the handshake: then the app has got
// nothing of what was sent.
func (p *pool) late(err error) error {
	var dial *dialError
	if p.id.serverName == "" || errors.As(err, &dial) || !wantsCert(err) {
		return err
	}
	return &dialError{err: fmt.Errorf("TLS: %w", err), status: statusCertRequired}
}
