package dewpoint_test

import (
	"io/fs"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/router"
)

func TestRoutes(t *testing.T) {
	t.Parallel()
	p, _ := newWorld(t).start()
	for _, name := range []string{"shop", "api"} {
		_, err := p.Push(t.Context(), request(name, site(name)))
		require.NoError(t, err)
	}
	require.NoError(t, p.MapRoute(t.Context(), dewpoint.Route{Host: "SHOP.example.com", App: "shop"}))
	require.NoError(t, p.MapRoute(t.Context(), dewpoint.Route{Host: "shop.example.com", Path: "/api/", App: "api", Options: router.Options{LoadBalancing: router.LeastConnection}}))
	require.NoError(t, p.MapRoute(t.Context(), dewpoint.Route{Host: "*.example.com", App: "shop"}))
	answers := func(host, path, want string) {
		t.Helper()
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			code, body := get(p, host, path)
			assert.Equal(c, 200, code)
			assert.Equal(c, want, body)
		}, 10*time.Second, time.Millisecond)
	}
	answers("shop.example.com", "/x", "shop")
	answers("shop.example.com", "/api/x", "api")
	answers("any.example.com", "/", "shop")

	// A push leaves routes and options as they are.
	_, err := p.Push(t.Context(), request("api", site("api")))
	require.NoError(t, err)
	all, err := p.Routes("api")
	require.NoError(t, err)
	require.Len(t, all, 2)
	assert.Equal(t, "api.localhost", all[0].String())
	assert.Equal(t, router.LeastConnection, all[1].Options.LoadBalancing)

	require.ErrorIs(t, p.MapRoute(t.Context(), dewpoint.Route{Host: "shop.localhost", App: "api"}), fs.ErrExist)
	require.ErrorIs(t, p.MapRoute(t.Context(), dewpoint.Route{Host: "x.example.com", App: "nobody"}), fs.ErrNotExist)
	for _, r := range []dewpoint.Route{
		{Host: ""}, {Host: "a b"}, {Host: "a..b"}, {Host: "*"}, {Host: "x.*.y"}, {Host: "x", Path: "api"}, {Host: "x", Path: "/a?b"},
		{Host: "x", Options: router.Options{LoadBalancing: "best"}},
	} {
		r.App = "shop"
		require.Error(t, p.MapRoute(t.Context(), r), "%+v", r)
	}

	require.NoError(t, p.UnmapRoute(t.Context(), "shop.example.com", "/api"))
	require.NoError(t, p.UnmapRoute(t.Context(), "shop.example.com", "/api"))
	answers("shop.example.com", "/api/x", "shop")
}
