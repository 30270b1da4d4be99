package cell

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/dewpoint-go/dewpoint/internal/size"
)

// PortLister is a power of containers that can tell on which TCP ports their processes listen. It
// is asked to explain to an app's owner why its instance is not healthy.
type PortLister interface {
	// Listening returns the ports, in order, as the processes see them.
	Listening(ctx context.Context) ([]int, error)
}

// advice tells what the app's owner can do about an instance that is not healthy. Cloud Foundry
// leaves it at the failure.
func (j *job) advice(ctx context.Context, u *unhealthy) string {
	if u.refused == 0 {
		return u.advice
	}
	want := strconv.Itoa(u.refused)
	first := j.con.Info().Addresses[0].Port == u.refused
	where := "listen on port " + want + ", or take it off the process's ports"
	if first {
		where = "listen at 0.0.0.0 on the port that the environment variable PORT names (here " + want + ")"
	}
	listening, err := j.listening(ctx)
	switch {
	case err != nil:
		if first {
			where += "; a process that serves nothing needs health type \"process\""
		}
		return "nothing listens on port " + want + ": " + where
	case slices.Contains(listening, u.refused):
		return "the app listens on port " + want + ", but not at an address that is reached from outside: listen at 0.0.0.0"
	case len(listening) > 0:
		all := make([]string, len(listening))
		for i, p := range listening {
			all[i] = strconv.Itoa(p)
		}
		return "the app listens on port " + strings.Join(all, ", ") + ", not on " + want + ": " + where
	}
	return "the app listens on no port: " + where + "; if it only takes longer, give a longer start timeout; a process that serves nothing needs health type \"process\""
}

func (j *job) listening(ctx context.Context) ([]int, error) {
	l, ok := j.con.(PortLister)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return l.Listening(ctx)
}

func timeoutAdvice(at Address, p Probe) string {
	if p.Type == "http" {
		return fmt.Sprintf("let %q answer at once, without waiting for other services, or give a longer timeout than %s", "/"+strings.TrimPrefix(p.Endpoint, "/"), p.Timeout)
	}
	return fmt.Sprintf("nothing takes connections on port %d: the app hangs, or has too many open; give a longer timeout than %s only if it is busy", at.Port, p.Timeout)
}

func endAdvice(at Address) string {
	return fmt.Sprintf("whatever listens on port %d ends connections without an answer: look at the app's own lines", at.Port)
}

func statusAdvice(path string, got answer) string {
	switch code := got.status; {
	case code >= 300 && code < 400:
		return fmt.Sprintf("%q redirects to %q, and only status 200 is health: give an endpoint that answers 200 itself", path, cut(got.location, 200))
	case code == http.StatusNotFound:
		return fmt.Sprintf("the app has no %q: give the path of an endpoint that answers 200", path)
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return fmt.Sprintf("let %q answer 200 without credentials, or give another endpoint", path)
	case code >= 500:
		return fmt.Sprintf("the app says itself that it is not well: look at its own lines from the time of the probe of %q", path)
	}
	return fmt.Sprintf("only status 200 is health: let %q answer that, or give another endpoint", path)
}

// exitAdvice tells what the app's owner can do about the end of a process; "": nothing is known.
func (j *job) exitAdvice(p *process, e Exit) string {
	instance := j.work.Health != nil || j.work.LRP != ""
	if p.exceeded {
		return fmt.Sprintf("the process did not end within %s of SIGTERM and was killed: let it finish what it does and exit, or give it more time", p.Grace)
	}
	if p.ending { // it ended because it was asked to
		return ""
	}
	if e.OutOfMemory {
		return fmt.Sprintf("it took more memory than its limit of %s: raise the limit, or find out what grows", size.Text(j.work.Spec.Memory))
	}
	if e.Code == 0 {
		switch {
		case !instance:
			return ""
		case !p.main:
			return fmt.Sprintf("sidecar %s ended with status 0, and with it the instance: a sidecar must run as long as the process", p.ID)
		}
		return "a long-running process must not end: keep it in the foreground, as what it leaves in the background ends with it; if it is done, run it as a task"
	}
	last := strings.ToLower(strings.Join(j.log.tail(20), "\n"))
	says := func(texts ...string) bool {
		return slices.ContainsFunc(texts, func(s string) bool { return strings.Contains(last, s) })
	}
	switch {
	case j.work.Spec.Image != "" && says("operation not permitted", "invalid argument") && says("chown", "setgid", "setuid", "setgroups", "failed switching to", "gosu"):
		return "the image changes its user as it starts, and here each container has one: give the user that it would change to, an image that runs as one user, or a cell of root whose images have users of their own (FirstUser)"
	case says("too many open files", "emfile"):
		return fmt.Sprintf("the process may have %s open files (nofile): let it close what it does not need, or raise the limit", limit(int64(j.work.Spec.NoFile)))
	case says("no space left on device", "enospc", "disk quota exceeded"):
		return fmt.Sprintf("there is no room left on its disk (limit %s, of which the droplet takes its part): write less, or raise the disk limit; files of an instance do not outlive it anyway", diskLimit(j.work.Spec.Disk))
	case says("address already in use", "eaddrinuse"):
		return "it wants a port that is taken: listen on the port that the environment variable PORT names, and only once"
	case says("resource temporarily unavailable", "cannot fork", "cannot allocate memory", "enomem"):
		return "it could get no more processes or memory: let it start fewer, or raise its limits"
	}
	return ""
}

func diskLimit(n int64) string {
	if n == 0 {
		return "none, so it is the machine's"
	}
	return size.Text(n)
}

// limit writes a limit.
func limit(n int64) string {
	if n == 0 {
		return "as many as the cell allows"
	}
	return strconv.FormatInt(n, 10)
}
