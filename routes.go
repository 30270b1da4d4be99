package dewpoint

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/state"
)

// Route sends requests for a host, and for a path on it, to an app's web process.
type Route struct {
	// Host in lower case, without port: "shop.example.com", or "*.example.com" for all names that
	// end so and have no route of their own.
	Host string `json:"host"`
	// Path is "" or begins with "/": "/api" takes /api and all below it from the route of the
	// host alone. Host and Path together are the key.
	Path string `json:"path,omitempty"`
	App  string `json:"app"` // its id
	// Options say how an instance is chosen; the zero Options: each in its turn.
	Options router.Options `json:"options,omitzero"`
	// HTTP2: the app is spoken to in HTTP/2 without TLS.
	HTTP2 bool `json:"http2,omitempty"`
}

func (r Route) key() string { return r.Host + r.Path }

// String is the route as a user writes it: "shop.example.com/api".
func (r Route) String() string { return r.key() }

func (r Route) validate() error {
	name := strings.TrimPrefix(r.Host, "*.")
	bad := name == "" || len(r.Host) > 253
	for _, label := range strings.Split(name, ".") {
		bad = bad || label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-_") != ""
	}
	switch {
	case bad:
		return fmt.Errorf("host %q is not a name: use letters, digits, \"-\" and dots, or \"*.\" before a name", r.Host)
	case r.Path != "" && (!strings.HasPrefix(r.Path, "/") || r.Path == "/" || strings.ContainsAny(r.Path, "?# ") || len(r.Path) > 128):
		return fmt.Errorf("path %q of host %s: begin it with \"/\", without \"?\", and let it be at most 128 bytes and more than \"/\"", r.Path, r.Host)
	}
	switch lb := r.Options.LoadBalancing; lb {
	case "", router.RoundRobin, router.LeastConnection, router.Hash:
	default:
		return fmt.Errorf("route %s: load balancing %q is not known: use %q, %q or %q", r, lb, router.RoundRobin, router.LeastConnection, router.Hash)
	}
	return nil
}

// claimRoute gives an app a route, or changes it. One that another app has is refused.
func claimRoute(tx *state.Tx, r Route) error {
	if err := r.validate(); err != nil {
		return err
	}
	if old, ok := routes.Get(tx, r.key()); ok && old.App != r.App {
		return fmt.Errorf("route %s belongs to another app; choose another host or path, or delete that app: %w", r, fs.ErrExist)
	}
	return routes.Put(tx, r)
}

// MapRoute sends requests for a route to an app, whose name or id stands in r.App. If the app has
// it already, its options are changed. Another app's: an error that wraps fs.ErrExist.
func (p *Platform) MapRoute(ctx context.Context, r Route) error {
	return p.change(ctx, "map a route of", r.App, func(ctx context.Context, a App) error {
		r.App, r.Host, r.Path = a.ID, strings.ToLower(r.Host), strings.TrimRight(r.Path, "/")
		return p.db.Update(ctx, func(tx *state.Tx) error { return claimRoute(tx, r) })
	})
}

// UnmapRoute takes a route away from its app. Absent: nil.
func (p *Platform) UnmapRoute(ctx context.Context, host, path string) error {
	key := Route{Host: strings.ToLower(host), Path: strings.TrimRight(path, "/")}.key()
	err := p.db.Update(ctx, func(tx *state.Tx) error {
		routes.Delete(tx, key)
		return nil
	})
	if err != nil {
		return fmt.Errorf("unmap route %s: %w", key, err)
	}
	return nil
}

// Routes lists an app's routes: the one made of its name first, the others in their order.
func (p *Platform) Routes(app string) ([]Route, error) {
	a, err := p.App(app)
	if err != nil {
		return nil, err
	}
	return p.routesOf(a), nil
}

func (p *Platform) routesOf(a App) []Route {
	own := p.defaultHost(a.Name)
	all := slices.Collect(routes.By(p.db.View(), "app", a.ID))
	slices.SortFunc(all, func(x, y Route) int {
		switch {
		case x.key() == own:
			return -1
		case y.key() == own:
			return 1
		}
		return strings.Compare(x.key(), y.key())
	})
	return all
}

// hosts returns an app's routes as a user writes them, the first one first.
func (p *Platform) hosts(app string) []string {
	a, ok := apps.Get(p.db.View(), app)
	if !ok {
		return nil
	}
	var out []string
	for _, r := range p.routesOf(a) {
		out = append(out, r.String())
	}
	return out
}

// defaultHost is the route that is made of an app's name.
func (p *Platform) defaultHost(name string) string {
	return strings.ToLower(name) + "." + p.cfg.Domain
}
