//go:build linux

package sandbox_test

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/attacktest"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/internal/needs"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// machine is an address of this machine that others would see.
func machine(t testing.TB) netip.Addr {
	t.Helper()
	all, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, a := range all {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr()
		}
	}
	needs.Missing(t, "this machine has no address but its loopback")
	return netip.Addr{}
}

// echo is a server at an address that sends back what it gets.
func echo(t testing.TB, address string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", address)
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	t.Cleanup(func() {
		assert.NoError(t, l.Close())
		<-done
	})
	return netip.MustParseAddrPort(l.Addr().String())
}

// networked is a cell whose containers have networks of their own.
func networked(t testing.TB, dir string, egress ...cell.EgressRule) *sandbox.Runtime {
	t.Helper()
	needIsolation(t)
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		needs.Missing(t, "this user may not open /dev/net/tun: "+err.Error())
	}
	require.NoError(t, f.Close())
	r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog, Network: sandbox.OwnNetwork, Egress: egress})
	require.NoError(t, err)
	return r
}

func serve(t testing.TB, r cell.Runtime, id string) cell.Container {
	t.Helper()
	c, err := r.Create(t.Context(), cell.Creation{ID: id, Spec: cell.Spec{Ports: []int{80, 9090}}})
	require.NoError(t, err)
	p := program("serve")
	p.ID, p.Env = "web", append(p.Env, "PORT=80")
	_, err = c.Run(t.Context(), p, cell.IO{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { return answers(c) }, time.Minute, time.Millisecond)
	return c
}

func answers(c cell.Container) bool {
	conn, err := c.Info().Addresses[0].Dial(context.Background())
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// The machine answers nobody in a container, be it at its own addresses or its loopback; another instance neither, though the
// machine reaches both.
func TestAttackTheNetwork(t *testing.T) {
	t.Parallel()
	own := machine(t)
	allowed, refused := echo(t, own.String()+":0"), echo(t, own.String()+":0")
	everywhere, loopback := echo(t, "0.0.0.0:0"), echo(t, "127.0.0.1:0")
	dir := t.TempDir()
	r := networked(t, dir,
		cell.EgressRule{Network: netip.PrefixFrom(own, 32), Protocol: "tcp", From: allowed.Port()},
		cell.EgressRule{Network: netip.MustParsePrefix("127.0.0.0/8")},
		cell.EgressRule{Network: netip.MustParsePrefix("10.0.0.0/8")})
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	c, other := serve(t, r, "x"), serve(t, r, "y")
	for _, c := range []cell.Container{c, other} {
		defer func() { assert.NoError(t, c.Destroy(context.Background())) }()
	}
	const no = "ECONNREFUSED|EHOSTUNREACH|ENETUNREACH"
	attacktest.Refused(t, c,
		[2]string{"dial=tcp:" + c.Info().Addresses[0].Host, "done"},
		[2]string{"dial=tcp:127.0.0.1:80", "done"}, // its own
		[2]string{"talk=" + allowed.String(), "done"},
		[2]string{"dial=tcp:" + refused.String(), no},
		[2]string{"dial=tcp:" + loopback.String(), no},
		[2]string{"dial=tcp:" + netip.AddrPortFrom(own, everywhere.Port()).String(), no},
		[2]string{"dial=tcp:" + other.Info().Addresses[0].Host, no},
		[2]string{"dial=tcp:169.254.169.254:80", no},
		[2]string{"dial=tcp:[::1]:81", no},
		[2]string{"dial=tcp:[2001:db8::1]:80", no},
	)
	_, err := c.Info().Addresses[1].Dial(t.Context())
	require.ErrorIs(t, err, syscall.ECONNREFUSED, "nobody listens")
	assert.ErrorContains(t, err, c.Info().Addresses[1].Host)
}

// No rules allow all, and rules that are none nothing.
func TestAttackPastEmptyRules(t *testing.T) {
	t.Parallel()
	own := machine(t)
	world := echo(t, own.String()+":0")
	for name, c := range map[string]struct {
		rules []cell.EgressRule
		want  string
	}{"none": {[]cell.EgressRule{}, "ECONNREFUSED"}, "one": {[]cell.EgressRule{{Network: netip.PrefixFrom(own, 32)}}, "done"}} {
		dir := t.TempDir()
		r := networked(t, dir, c.rules...)
		x, err := r.Create(t.Context(), cell.Creation{ID: "x"})
		require.NoError(t, err)
		// Elsewhere than this machine, so that only the rules can be what refuses it.
		elsewhere := netip.AddrPortFrom(netip.MustParseAddr("203.0.113.1"), 9)
		if name == "one" {
			elsewhere = world
		}
		attacktest.Refused(t, x, [2]string{"dial=tcp:" + elsewhere.String(), c.want})
		require.NoError(t, x.Destroy(t.Context()))
		require.NoError(t, r.Close())
		empty(t, dir)
	}
}

// What runs is reached, and reaches the world, after the program of the cell has gone and come, and after the process that connects
// it has been killed.
func TestNetworksOutliveWhoMadeThem(t *testing.T) {
	t.Parallel()
	own := machine(t)
	world := echo(t, own.String()+":0")
	dir := t.TempDir()
	rule := cell.EgressRule{Network: netip.PrefixFrom(own, 32)}
	r := networked(t, dir, rule)
	before := serve(t, r, "x")
	attack := func(c cell.Container, id string) {
		t.Helper()
		assert.Equal(t, []string{"done"}, attacktest.Said(t, c, id, "talk="+world.String()))
	}
	attack(before, "first")
	require.NoError(t, r.Close())
	assert.True(t, answers(before), "it is reached without its cell")

	r = networked(t, dir, rule)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	all, err := r.Containers(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	c := all[0]
	assert.Equal(t, before.Info().Addresses, c.Info().Addresses)
	assert.True(t, answers(c))
	attack(c, "second")

	s, err := lifecycle.InitState(filepath.Join(dir, "uplink"))
	require.NoError(t, err)
	require.True(t, s.Alive)
	require.NoError(t, syscall.Kill(s.PID, syscall.SIGKILL))
	require.Eventually(t, func() bool {
		now, err := lifecycle.InitState(filepath.Join(dir, "uplink"))
		return err == nil && now.Alive && now.PID != s.PID
	}, time.Minute, time.Millisecond, "another takes its place")
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", world.String())
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, time.Minute, time.Millisecond)
	attack(c, "third")
	assert.True(t, answers(c))
	require.NoError(t, c.Destroy(t.Context()))
}

// Names are resolved by this machine's resolvers.
func TestNamesAreResolved(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := networked(t, dir)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	c, err := r.Create(t.Context(), cell.Creation{ID: "x"})
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.Destroy(context.Background())) }()
	got := attacktest.Said(t, c, "main", "read=/etc/resolv.conf")
	assert.True(t, strings.HasPrefix(got[0], "nameserver 169.254.207.53"), got[0])
}

// Two processes of a container are at home in one network.
func TestProcessesShareTheirNetwork(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	r := networked(t, dir)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	c := serve(t, r, "x")
	defer func() { assert.NoError(t, c.Destroy(context.Background())) }()
	attacktest.Refused(t, c, [2]string{"dial=tcp:127.0.0.1:80", "done"})
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return c.Info().Addresses[0].Dial(ctx)
	}}}).Get("http://x/")
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
}

func TestNetworkOfTheMachine(t *testing.T) {
	t.Parallel()
	needIsolation(t)
	dir := t.TempDir()
	r, err := sandbox.New(t.Context(), sandbox.Config{Dir: dir, Program: prog, Network: sandbox.HostNetwork})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	res, err := r.Capacity(t.Context())
	require.NoError(t, err)
	assert.False(t, res.Networks)
	world := echo(t, "127.0.0.1:0")
	c, err := r.Create(t.Context(), cell.Creation{ID: "x", Spec: cell.Spec{Ports: []int{80}}})
	require.NoError(t, err)
	defer func() { assert.NoError(t, c.Destroy(context.Background())) }()
	assert.Empty(t, c.Info().Addresses[0].Socket)
	attacktest.Refused(t, c, [2]string{"talk=" + world.String(), "done"})
}
