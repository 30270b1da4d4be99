package cell

import (
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

// monitor probes an instance until ctx ends or it is unhealthy, which it reports.
func (j *job) monitor(ctx context.Context, report chan<- *fail) {
	h := *j.work.Health
	h.defaults()
	j.say(j.cellSrc, "Starting health monitoring of container")
	probe := j.prober(h)
	if err := j.startup(ctx, h, probe); err != nil {
		if ctx.Err() == nil {
			j.line("HEALTH", true, err.Error())
			j.line(j.cellSrc, true, fmt.Sprintf("Failed after %s: startup health check never passed.", h.StartTimeout))
			report <- &fail{ReasonHealth, fmt.Sprintf("Instance never healthy after %s: %v", h.StartTimeout, err)}
		}
		return
	}
	j.say(j.cellSrc, "Container became healthy")
	j.phase(PhaseRunning)
	j.settle()
	if h.Type == "process" {
		return
	}
	for {
		pause(ctx, h.Interval)
		if ctx.Err() != nil {
			return
		}
		if err := probe(ctx); err != nil && ctx.Err() == nil {
			text := "Liveness check unsuccessful: " + err.Error()
			j.line("HEALTH", true, text)
			j.line(j.cellSrc, true, "Container became unhealthy")
			report <- &fail{ReasonHealth, "Instance became unhealthy: " + text}
			return
		}
	}
}

func (h *Health) defaults() {
	if h.Type == "" {
		h.Type = "port"
	}
	if h.StartTimeout == 0 {
		h.StartTimeout = time.Minute
	}
	if h.Interval <= 0 {
		h.Interval = 30 * time.Second
	}
	if h.StartInterval <= 0 {
		h.StartInterval = 2 * time.Second
	}
	if h.Timeout <= 0 {
		h.Timeout = time.Second
	}
	if h.Endpoint == "" {
		h.Endpoint = "/"
	}
}

// startup probes until the first success: soon at first, so that a quick app is up quickly.
func (j *job) startup(ctx context.Context, h Health, probe func(context.Context) error) error {
	begun := time.Now()
	wait := min(10*time.Millisecond, h.StartInterval)
	for attempts := 1; ; attempts++ {
		err := probe(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		if attempts == 1 && j.old { // adopted, and not healthy
			j.phase(PhaseStarting)
			j.settle()
		}
		left := h.StartTimeout - time.Since(begun)
		if h.StartTimeout > 0 && left <= 0 {
			return fmt.Errorf("Timed out after %s (%d attempts) waiting for startup check to succeed: %w", h.StartTimeout, attempts, err)
		}
		if h.StartTimeout > 0 {
			pause(ctx, min(wait, left))
		} else {
			pause(ctx, wait)
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		wait = min(wait*2, h.StartInterval)
	}
}

// prober returns what learns once whether the instance is healthy.
func (j *job) prober(h Health) func(context.Context) error {
	addresses := j.con.Info().Addresses
	if h.Type == "process" || len(addresses) == 0 {
		return func(context.Context) error { return nil }
	}
	if h.Type == "http" {
		return j.httpProbe(h, addresses[0])
	}
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, h.Timeout)
		defer cancel()
		for _, a := range addresses {
			c, err := j.a.cfg.Dial(ctx, "tcp", a.Host)
			if err != nil {
				return fmt.Errorf("failed to make TCP connection to %s: %s", a.Host, reasonOf(err, h.Timeout))
			}
			c.Close()
		}
		return nil
	}
}

func (j *job) httpProbe(h Health, a Address) func(context.Context) error {
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, h.Timeout)
		defer cancel()
		tr := &http.Transport{DialContext: j.a.cfg.Dial, DisableKeepAlives: true}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+a.Host+"/"+strings.TrimPrefix(h.Endpoint, "/"), nil)
		if err != nil {
			return fmt.Errorf("failed to make HTTP request to '%s' on port %d: %w", h.Endpoint, a.Port, err)
		}
		req.Header.Set("User-Agent", "diego-healthcheck")
		req.Header.Set("X-Forwarded-Proto", "https")
		begun := time.Now()
		resp, err := tr.RoundTrip(req) // no redirects: only 200 is health
		if err != nil {
			return fmt.Errorf("failed to make HTTP request to '%s' on port %d: %s", h.Endpoint, a.Port, reasonOf(err, h.Timeout))
		}
		defer resp.Body.Close()
		_, _ = io.CopyN(io.Discard, resp.Body, 4096) // spares the app a broken pipe; its content says nothing
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("failed to make HTTP request to '%s' on port %d: received status code %d in %dms", h.Endpoint, a.Port, resp.StatusCode, time.Since(begun).Milliseconds())
		}
		return nil
	}
}

// reasonOf says in a few words why a connection failed.
func reasonOf(err error, timeout time.Duration) string {
	var ne net.Error
	var errno syscall.Errno
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return fmt.Sprintf("timed out after %.2f seconds", timeout.Seconds())
	case errors.As(err, &errno):
		return errno.Error()
	}
	return err.Error()
}
