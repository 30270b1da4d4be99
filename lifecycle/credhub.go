package lifecycle

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Exit codes of the builder and the launcher when credentials cannot be resolved.
const (
	exitPlatformOptions = 3
	exitCredHub         = 4
)

type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// resolveServices replaces the references to CredHub in VCAP_SERVICES, if VCAP_PLATFORM_OPTIONS
// names a CredHub, by asking it as this instance. VCAP_PLATFORM_OPTIONS is for us only and
// is removed.
func (e *environ) resolveServices(ctx context.Context) error {
	options := e.get("VCAP_PLATFORM_OPTIONS")
	e.unset("VCAP_PLATFORM_OPTIONS")
	if options == "" {
		return nil
	}
	var o struct {
		URI string `json:"credhub-uri"`
	}
	if err := json.Unmarshal([]byte(options), &o); err != nil {
		return &exitError{exitPlatformOptions, fmt.Errorf("invalid platform options: %w", err)}
	}
	services := e.get("VCAP_SERVICES")
	if o.URI == "" || !strings.Contains(services, `"credhub-ref"`) {
		return nil
	}
	resolved, err := e.askCredHub(ctx, strings.TrimSuffix(o.URI, "/")+"/api/v1/interpolate", services)
	if err != nil {
		return &exitError{exitCredHub, fmt.Errorf("unable to interpolate credhub references: %w", err)}
	}
	e.set("VCAP_SERVICES", resolved)
	return nil
}

func (e *environ) askCredHub(ctx context.Context, url, services string) (string, error) {
	t := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}}
	defer t.CloseIdleConnections()
	if cert := e.get("CF_INSTANCE_CERT"); cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, e.get("CF_INSTANCE_KEY"))
		if err != nil {
			return "", err
		}
		t.TLSClientConfig.Certificates = []tls.Certificate{pair}
	}
	if dir := e.get("CF_SYSTEM_CERT_PATH"); dir != "" {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		files, _ := filepath.Glob(filepath.Join(dir, "*"))
		for _, f := range files {
			if pem, err := os.ReadFile(f); err == nil {
				pool.AppendCertsFromPEM(pem)
			}
		}
		t.TLSClientConfig.RootCAs = pool
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewBufferString(services))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 8<<20))
	switch {
	case err != nil:
		return "", err
	case resp.StatusCode != http.StatusOK:
		return "", fmt.Errorf("%s answers %s", url, resp.Status)
	case !json.Valid(b):
		return "", errors.New("the answer is not JSON")
	}
	return string(b), nil
}
