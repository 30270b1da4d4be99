package cell_test

import (
	"context"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
)

func TestAgentOverMemory(t *testing.T) {
	t.Parallel()
	celltest.RunCell(t, func(t *testing.T) celltest.Cell {
		m := cell.NewMemory(cell.MemoryConfig{Programs: programs()})
		t.Cleanup(func() {
			left, _ := m.Containers(context.Background())
			assert.Empty(t, left)
		})
		return celltest.Cell{Cell: celltest.Agent(t, cell.AgentConfig{Runtime: m}), Program: program}
	})
}

// Images that change their user as they start say so in many words; the owner reads what helps.
func TestAnImageOfManyUsers(t *testing.T) {
	t.Parallel()
	a := celltest.Agent(t, cell.AgentConfig{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()})})
	says := map[string]string{
		"nginx":    `2026/01/01 00:00:00 [emerg] 9#9: setgid(101) failed (22: Invalid argument)`,
		"chown":    `nginx: [emerg] chown("/var/cache/nginx/client_temp", 101) failed (1: Operation not permitted)`,
		"postgres": `error: failed switching to "postgres": operation not permitted`,
		"redis":    `chown: changing ownership of '.': Invalid argument`,
	}
	for id, text := range says {
		w := cell.Work{ID: id, LRP: "l", Health: &cell.Health{Type: "process"}, Process: program("err="+text, "exit=1")}
		w.Spec.Image = "registry.example/" + id + "@sha256:0"
		assert.NoError(t, a.Start(t.Context(), w))
		plain := w
		plain.ID, plain.Spec.Image = id+"-plain", ""
		assert.NoError(t, a.Start(t.Context(), plain))
	}
	left := 2 * len(says)
	for e, err := range a.Watch(t.Context()) {
		if !assert.NoError(t, err) || left == 0 {
			break
		}
		if e.Status.Phase != cell.PhaseDone {
			continue
		}
		_, image := says[e.Status.ID]
		assert.Equal(t, image, strings.Contains(e.Status.Failure, "give the user that it would change to"), "%s: %s", e.Status.ID, e.Status.Failure)
		if left--; left == 0 {
			break
		}
	}
}
