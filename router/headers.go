package router

import (
	"io"
	"log"
	"log/slog"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

const levelWarn = slog.LevelWarn

// discard takes what the library says about requests that broke off; the access log has them.
var discard = log.New(io.Discard, "", 0)

func errAttrs(x *exchange, err error) []slog.Attr {
	return []slog.Attr{
		slog.String("host", x.in.Host), slog.String("request", x.id),
		slog.Int("attempts", x.attempts), slog.Any("error", err),
	}
}

// setBackend tells the app which instance was meant. Each attempt has values of its own.
func setBackend(h http.Header, b *Backend) {
	v := []string{b.App, b.Instance, strconv.Itoa(b.Index)}
	h["X-Cf-Applicationid"], h["X-Cf-Instanceid"], h["X-Cf-Instanceindex"] = v[0:1:1], v[1:2:2], v[2:3:3]
}

func joinComma(v []string) string {
	if len(v) == 1 {
		return v[0]
	}
	return strings.Join(v, ", ")
}

// namedInConnection tells whether a client asked for a header to go no further.
func namedInConnection(h http.Header, name string) bool {
	for _, line := range h["Connection"] {
		for f := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(f), name) {
				return true
			}
		}
	}
	return false
}

// wish is which instance a request asks for.
type wish struct {
	forced      bool // by X-CF-APP-INSTANCE or X-CF-PROCESS-INSTANCE: that one or none
	process     bool
	guid, index string

	instance string // by the cookie: that one if it can be had
}

type badWish struct{ reason, text string }

var (
	appInstance     = regexp.MustCompile(`^([\w-]+):(\d{1,9})$`)
	processInstance = regexp.MustCompile(`^([\w-]+)(?::(\d{1,9}))?$`)
)

func (w *wish) parse(h http.Header) *badWish {
	if v := h.Get("X-Cf-App-Instance"); v != "" {
		m := appInstance.FindStringSubmatch(v)
		if m == nil {
			return &badWish{"invalid_cf_app_instance_header", "Invalid X-CF-App-Instance Header"}
		}
		*w = wish{forced: true, guid: m[1], index: m[2]}
		return nil
	}
	if v := h.Get("X-Cf-Process-Instance"); v != "" {
		m := processInstance.FindStringSubmatch(v)
		if m == nil {
			return &badWish{"invalid_cf_process_instance_header", "Invalid X-CF-Process-Instance Header"}
		}
		*w = wish{forced: true, process: true, guid: m[1], index: m[2]}
	}
	return nil
}

func (w *wish) fits(p *pool) bool {
	b := p.backend.Load()
	id := b.App
	if w.process {
		id = b.Process
	}
	if id != w.guid {
		return false
	}
	n, err := strconv.Atoi(w.index)
	return w.index == "" || err == nil && n == b.Index
}

// stickyCookie is the router's own cookie: it names the instance.
const stickyCookie = "__VCAP_ID__"

// sticky reads the instance that a client was served by before. The cookie counts only
// beside one with which the app asked for it.
func (w *wish) sticky(r *http.Request, names []string) {
	if w.forced || len(r.Header["Cookie"]) == 0 {
		return
	}
	mine, err := r.Cookie(stickyCookie)
	if err != nil {
		return
	}
	for _, n := range names {
		if _, err := r.Cookie(n); err == nil {
			w.instance = mine.Value
			return
		}
	}
}

// modify adds to a response the request's id and, where the app asked for it, the cookie
// that brings the client back to the instance.
func (x *exchange) modify(res *http.Response) error {
	res.Header.Set("X-Vcap-Request-Id", x.id)
	if len(res.Trailer) > 0 && x.in.ProtoMajor == 1 {
		res.Header.Del("Content-Length") // an app's HTTP/2 may have both, HTTP/1.1 either
	}
	x.upgraded = res.StatusCode == http.StatusSwitchingProtocols
	b := x.last
	lost := x.wish.instance != "" && x.wish.instance != b.Instance
	if len(res.Header["Set-Cookie"]) == 0 && !lost {
		return nil
	}
	path := x.to.path
	if path == "" {
		path = "/"
	}
	c := &http.Cookie{Name: stickyCookie, Value: b.Instance, Path: path, HttpOnly: true}
	asked := false
	for _, set := range res.Cookies() {
		if set.Name == stickyCookie {
			return nil // the app does it itself
		}
		if slices.Contains(x.router.conf.StickyCookies, set.Name) {
			asked = true
			c.Secure, c.SameSite, c.Expires, c.Partitioned = set.Secure, set.SameSite, set.Expires, set.Partitioned
			c.MaxAge = min(set.MaxAge, 0)
		}
	}
	if (asked || lost) && b.Instance != "" {
		if s := c.String(); s != "" {
			res.Header.Add("Set-Cookie", s)
		}
	}
	return nil
}
