package cell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"
)

// unhealthy says why a probe failed.
type unhealthy struct {
	text    string // Cloud Foundry's
	advice  string // what the app's owner can do
	refused int    // the port on which nobody listens; 0: that was not it
	ours    bool   // the cell could not ask: it says nothing about the app
}

// prober returns what learns once whether an instance is healthy. It takes at most p.Timeout, and a
// bounded amount of memory, whatever the app does.
func (j *job) prober(p Probe) func(context.Context) *unhealthy {
	addresses := j.con.Info().Addresses
	if p.Type == "process" || len(addresses) == 0 {
		return func(context.Context) *unhealthy { return nil }
	}
	one := j.a.probePort
	if p.Type == "http" {
		addresses = addresses[:1]
		one = func(ctx context.Context, a Address, p Probe) *unhealthy { return j.a.probeHTTP(ctx, a, p) }
	}
	return func(ctx context.Context) *unhealthy {
		ctx, cancel := context.WithTimeout(ctx, p.Timeout)
		defer cancel()
		for _, a := range addresses {
			if u := one(ctx, a, p); u != nil {
				return u
			}
		}
		return nil
	}
}

func (a *Agent) probePort(ctx context.Context, at Address, p Probe) *unhealthy {
	c, err := a.cfg.Dial(ctx, at)
	if err != nil {
		u := failed(err, at, p)
		u.text = fmt.Sprintf("failed to make TCP connection to %s: %s", at.Host, u.text)
		return u
	}
	_ = c.Close() // it was only opened
	return nil
}

// maxAnswer is how much of an answer is read at most, in bytes.
const maxAnswer = 64 << 10

func (a *Agent) probeHTTP(ctx context.Context, at Address, p Probe) *unhealthy {
	path := "/" + strings.TrimPrefix(p.Endpoint, "/")
	began := time.Now()
	got, err := a.get(ctx, at, path)
	if err != nil {
		u := failed(err, at, p)
		u.text = fmt.Sprintf("failed to make HTTP request to '%s' on port %d: %s", path, at.Port, u.text)
		return u
	}
	if got.status == http.StatusOK {
		return nil
	}
	return &unhealthy{
		text:   fmt.Sprintf("failed to make HTTP request to '%s' on port %d: received status code %d in %dms", path, at.Port, got.status, time.Since(began).Milliseconds()),
		advice: statusAdvice(path, got),
	}
}

var errLong = fmt.Errorf("the head of the answer is longer than %d bytes", maxAnswer)

// answer is what a probe learns from a response.
type answer struct {
	status   int
	location string
}

// get asks once, on a connection of its own: no redirects, and no goroutine beside.
func (a *Agent) get(ctx context.Context, at Address, path string) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at.Host+path, nil)
	if err != nil {
		return answer{}, err
	}
	req.Header.Set("User-Agent", "diego-healthcheck")
	req.Header.Set("X-Forwarded-Proto", "https")
	req.Close = true
	c, err := a.cfg.Dial(ctx, at)
	if err != nil {
		return answer{}, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	got, err := exchange(c, req)
	if err != nil {
		return answer{}, errors.Join(ctx.Err(), err)
	}
	return got, nil
}

func exchange(c net.Conn, req *http.Request) (answer, error) {
	if err := req.Write(c); err != nil {
		return answer{}, err
	}
	limited := &io.LimitedReader{R: c, N: maxAnswer}
	from := bufio.NewReader(limited)
	for {
		resp, err := http.ReadResponse(from, req)
		if err != nil && limited.N == 0 {
			return answer{}, errLong
		}
		if err != nil {
			return answer{}, err
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			// To take what comes at once spares the app a broken pipe. Its content says nothing.
			_ = c.SetReadDeadline(time.Now().Add(slowAfter / 2))
			_, _ = io.CopyN(io.Discard, resp.Body, 4096)
			_ = c.Close() // or the next line would read on
		}
		_ = resp.Body.Close() // only read
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return answer{resp.StatusCode, resp.Header.Get("Location")}, nil
		}
	}
}

// failed says in a few words why nothing was answered.
func failed(err error, at Address, p Probe) *unhealthy {
	var ne net.Error
	var errno syscall.Errno
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return &unhealthy{text: "connection refused", refused: at.Port}
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return &unhealthy{text: fmt.Sprintf("timed out after %.2f seconds", p.Timeout.Seconds()), advice: timeoutAdvice(at, p)}
	case isOurs(err):
		return &unhealthy{text: err.Error(), ours: true, advice: "the cell cannot probe: its operator must give it more open files, ports or memory"}
	case errors.Is(err, errLong):
		return &unhealthy{text: errLong.Error(), advice: "let the endpoint answer with few and short headers"}
	case errors.As(err, &errno):
		return &unhealthy{text: errno.Error(), advice: endAdvice(at)}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &unhealthy{text: "EOF", advice: endAdvice(at)}
	case strings.Contains(err.Error(), "malformed HTTP"):
		text := err.Error()
		return &unhealthy{text: text[:min(len(text), 200)], advice: fmt.Sprintf("what answers on port %d is not plain HTTP: serve HTTP there, without TLS, or use health type \"port\"", at.Port)}
	}
	text := err.Error()
	return &unhealthy{text: text[:min(len(text), 500)], advice: endAdvice(at)}
}

// isOurs tells whether it was the cell that lacked something.
func isOurs(err error) bool {
	for _, e := range []error{syscall.EMFILE, syscall.ENFILE, syscall.EADDRNOTAVAIL, syscall.ENOBUFS, syscall.ENOMEM} {
		if errors.Is(err, e) {
			return true
		}
	}
	return false
}
