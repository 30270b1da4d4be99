package router

import (
	"context"
	"net"
)

// Backend is an instance that requests can be sent to.
type Backend struct {
	// App is the app's id: it is what X-CF-APP-INSTANCE names and the app is told as
	// X-CF-ApplicationID.
	App string
	// Process is the process's id, which X-CF-PROCESS-INSTANCE names; "" if there is none.
	Process string
	// Instance is the instance's id, unique; Index its index.
	Instance string
	Index    int
	// Addr is "host:port". It may be anything if Dial is set.
	Addr string
	// Zone is where the instance runs; see Config.Zone. "" is a zone like any other.
	Zone string
	// Protocol is "http2" for an app that is to be spoken to in HTTP/2; upgrades
	// are asked of it in HTTP/1.1 all the same. Anything else: HTTP/1.1.
	Protocol string
	// ServerName, if there is one, is the name for which the app must show a certificate, by Config.BackendTLS; it is
	// this instance's own, so that an app that got the address of another is not taken for that. "": no TLS.
	ServerName string
	// Dial opens a connection; nil: TCP to Addr. Two Backends that differ in nothing but
	// Dial, Zone and Protocol are one and share connections.
	Dial func(ctx context.Context) (net.Conn, error)
}

// identity is what must be equal for two Backends to be the same one.
type identity struct {
	app, process, instance, addr, serverName string
	index                                    int
}

func (b *Backend) identity() identity {
	return identity{b.App, b.Process, b.Instance, b.Addr, b.ServerName, b.Index}
}

// Route is a host and path, who serves it, and how a backend is chosen.
type Route struct {
	// Host is a name without port, in any case: "shop.example.com", or "*.example.com" for
	// all names that end so and have no route of their own.
	Host string
	// Path is "" or begins with a slash: "/api" serves /api and all below it, but not
	// /apis. Case matters.
	Path string
	// Backends may be none: the route is known, and answered with status 503.
	Backends []Backend
	// Options say how a backend is chosen; the zero Options: each in its turn.
	Options Options
}

// Options are the settings of one route.
type Options struct {
	// LoadBalancing is RoundRobin, LeastConnection or Hash; "" means RoundRobin. A value that
	// is none of these leaves the Options that the route had, or else the zero ones.
	LoadBalancing string
	// HashHeader is, with Hash, the header of the request that decides: equal values go to the
	// same backend, and a backend that comes or goes moves no more than its own share of the
	// values. A request without the header goes by RoundRobin.
	HashHeader string
	// HashBalance bounds how uneven the load by Hash may become: a backend that has more than
	// HashBalance times the average of requests in flight is passed over for the value's
	// next one. Cloud Foundry allows 1.1 to 10; below 1: no bound.
	HashBalance float64
}

// How a backend is chosen of those that serve a route.
const (
	RoundRobin      = "round-robin"      // each in its turn
	LeastConnection = "least-connection" // the one with the fewest requests in flight
	Hash            = "hash"             // by a header of the request
)

func (o Options) valid() bool {
	switch o.LoadBalancing {
	case "", RoundRobin, LeastConnection, Hash:
		return true
	}
	return false
}

// target is a Route that is ready for use, small, for there may be very many. But for what it
// knows of the Routers that use it, it never changes.
type target struct {
	host, path string
	backends   []Backend
	options    *Options // nil: the zero ones
	users      users
}

func (x *target) set(r *Route) {
	x.host, x.path, x.backends, x.options = r.Host, r.Path, r.Backends, nil
	if r.Options != (Options{}) {
		o := r.Options
		x.options = &o
	}
}

func (x *target) route() Route {
	return Route{Host: x.host, Path: x.path, Backends: x.backends, Options: x.balance()}
}

func (x *target) balance() Options {
	if x.options == nil {
		return Options{}
	}
	return *x.options
}

// Change is what happens to one host and path of a table.
type Change struct {
	// Route takes the place of the one with the same host and path, if there is one.
	Route Route
	// Gone takes the route away instead; of Route only Host and Path matter. A route that is
	// not there may go.
	Gone bool
}
