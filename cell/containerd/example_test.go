//go:build linux

package containerd_test

import (
	"context"
	"log"
	"net/netip"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
	"github.com/dewpoint-go/dewpoint/droplet/oci"
)

// A cell of this machine's containerd, whose apps reach the public internet and one database.
func ExampleNew() {
	ctx := context.Background()
	r, err := containerd.New(ctx, containerd.Config{
		Dir:    "/var/lib/dewpoint/cell",
		Socket: "/run/containerd/containerd.sock",
		Stacks: []containerd.Stack{{Name: "bookworm", Dir: "/var/lib/dewpoint/bookworm"}},
		Egress: []cell.EgressRule{
			{Network: netip.MustParsePrefix("10.1.2.3/32"), Protocol: "tcp", From: 5432, To: 5432},
			{Deny: true, Network: netip.MustParsePrefix("10.0.0.0/8")},
			{Deny: true, Network: netip.MustParsePrefix("192.168.0.0/16")},
			{Network: netip.MustParsePrefix("0.0.0.0/0")},
		},
	})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	agent, err := cell.New(cell.AgentConfig{ID: "cell-1", Runtime: r})
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(agent.Run(ctx))
}

// A containerd of its own, for a test or a demo: it needs nothing but the programs of the packages containerd and runc.
func ExampleNew_child() {
	r, err := containerd.New(context.Background(), containerd.Config{Dir: "/tmp/cell"})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close() // ends it, too; processes go on
}

// A cell that runs images as they are, root and others among users of their own.
func ExampleNew_images() {
	c, err := oci.New(oci.Config{})
	if err != nil {
		log.Fatal(err)
	}
	roots, err := c.Roots(oci.RootsConfig{Dir: "/var/lib/dewpoint/images", KeepOwners: true, FirstUser: cell.FirstUser})
	if err != nil {
		log.Fatal(err)
	}
	r, err := containerd.New(context.Background(), containerd.Config{Dir: "/var/lib/dewpoint/cell", Images: roots, FirstUser: cell.FirstUser})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
}
