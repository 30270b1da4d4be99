//go:build linux

package sandbox_test

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
	"github.com/dewpoint-go/dewpoint/internal/cgroup"
	"github.com/dewpoint-go/dewpoint/internal/needs"
)

// TestWithoutRoot runs all other tests again as a user without any power, where they were run as root.
func TestWithoutRoot(t *testing.T) {
	t.Parallel()
	out := needs.Nobody(t, nil, "-test.v", "-test.skip", "^TestWithoutRoot$")
	if strings.Contains(out, "--- SKIP: TestRuntime") {
		needs.Missing(t, "this machine allows no user namespaces without root")
	}
	assert.Contains(t, out, "--- PASS: TestRuntime")
	assert.Contains(t, out, "--- PASS: TestAttackPowers")
	assert.Contains(t, out, "--- PASS: TestAttackTheNetwork")
}

func TestCapacityIsTheTruth(t *testing.T) {
	t.Parallel()
	res, err := openClean(t, t.TempDir()).Capacity(t.Context())
	require.NoError(t, err)
	assert.Equal(t, "namespaces", res.Isolation)
	assert.Equal(t, []string{"host"}, res.Stacks)
	assert.True(t, res.Survives)
	_, err = os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	assert.Equal(t, err == nil, res.Networks)
	assert.Subset(t, []string{"nofile", "pids", "memory", "cpu"}, res.Enforced) // each with a test of its own
	if groups, err := cgroup.Open("dewpoint-test"); err == nil {
		assert.Subset(t, res.Enforced, groups.Controllers())
	}
}

func TestWhatCannotBe(t *testing.T) {
	t.Parallel()
	for text, c := range map[string]sandbox.Config{
		"Config.Dir is empty":                             {},
		`Config.Network is "bridge": use "own" or "host"`: {Dir: t.TempDir(), Network: "bridge"},
		`Config.Egress needs Config.Network "own"`:        {Dir: t.TempDir(), Network: sandbox.HostNetwork, Egress: []cell.EgressRule{}},
		`Config.Egress: protocol "ip" is not known`:       {Dir: t.TempDir(), Egress: []cell.EgressRule{{Network: netip.MustParsePrefix("0.0.0.0/0"), Protocol: "ip"}}},
		`Config.AtLeast is "gvisor"`:                      {Dir: t.TempDir(), AtLeast: "gvisor"},
		"stack s is image x: set Config.Images":           {Dir: t.TempDir(), Stacks: []sandbox.Stack{{Name: "s", Image: "x"}}},
		"stack s has a Dir and an Image":                  {Dir: t.TempDir(), Stacks: []sandbox.Stack{{Name: "s", Image: "x", Dir: "/"}}},
		"stack s: open /no/such: no such file":            {Dir: t.TempDir(), Stacks: []sandbox.Stack{{Name: "s", Dir: "/no/such"}}},
		"holds nothing: unpack a root filesystem":         {Dir: t.TempDir(), Stacks: []sandbox.Stack{{Name: "s", Dir: t.TempDir()}}},
		`Config.Stacks names "a" twice`:                   {Dir: t.TempDir(), Stacks: []sandbox.Stack{{Name: "a"}, {Name: "a"}}},
		`Config.Share names "x": give absolute path`:      {Dir: t.TempDir(), Share: []string{"x"}},
	} {
		_, err := sandbox.New(t.Context(), c)
		assert.ErrorContains(t, err, text)
	}
	r := openClean(t, t.TempDir())
	for text, s := range map[string]cell.Spec{
		`stack "other" is not offered by this cell: it has host`: {Stack: "other"},
		"image alpine: unsupported":                              {Image: "alpine"},
		"user root: unsupported":                                 {User: "root"},
	} {
		_, err := r.Create(t.Context(), cell.Creation{ID: "x", Spec: s})
		assert.ErrorContains(t, err, text)
	}
}
