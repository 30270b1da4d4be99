//go:build linux

package containerd_test

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
	"github.com/dewpoint-go/dewpoint/cell/internal/attacktest"
)

func TestTheMachinesNetworkByChoice(t *testing.T) {
	t.Parallel()
	need(t)
	dir := t.TempDir()
	r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog, HostNetwork: true})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	c := create(t, r, cell.Spec{Ports: []int{8080}})
	a := c.Info().Addresses[0]
	assert.True(t, strings.HasPrefix(a.Host, "127.0.0.1:"), a.Host)
	p := program("serve")
	p.Env = append(p.Env, "PORT="+strconv.Itoa(a.Port))
	_, err = c.Run(t.Context(), p, cell.IO{})
	require.NoError(t, err)
	conn, err := dial(a.Host)
	require.NoError(t, err)
	conn.Close()
}

func TestNamesAreResolvedByWhoIsNamed(t *testing.T) {
	t.Parallel()
	need(t)
	dir := t.TempDir()
	r, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog, DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53")}})
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, r.Close()); empty(t, dir) })
	assert.Equal(t, []string{"nameserver 192.0.2.53"}, attacktest.Said(t, create(t, r, cell.Spec{}), "main", "read=/etc/resolv.conf"))
}

// An instance keeps its address when the next program finds it. Low ports are for everybody there.
func TestAnAddressLasts(t *testing.T) {
	t.Parallel()
	need(t)
	dir := t.TempDir()
	first, err := containerd.New(t.Context(), containerd.Config{Dir: dir, Socket: socket, Program: prog})
	require.NoError(t, err)
	c, err := first.Create(t.Context(), cell.Creation{ID: "x", Spec: cell.Spec{Ports: []int{8080, 80}}})
	require.NoError(t, err)
	p := program("serve")
	p.Env = append(p.Env, "PORT=80")
	_, err = c.Run(t.Context(), p, cell.IO{})
	require.NoError(t, err)
	require.NoError(t, first.Close())
	r := openClean(t, dir)
	all, err := r.Containers(t.Context())
	require.NoError(t, err)
	require.Len(t, all, 1)
	assert.Equal(t, c.Info().Addresses, all[0].Info().Addresses)
	conn, err := dial(all[0].Info().Addresses[1].Host)
	require.NoError(t, err)
	conn.Close()
	require.NoError(t, all[0].Destroy(t.Context()))
}
