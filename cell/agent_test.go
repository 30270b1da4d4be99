package cell_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
)

// running returns an Agent that runs until t ends.
func running(t *testing.T, c cell.AgentConfig) *cell.Agent {
	t.Helper()
	if c.ID == "" {
		c.ID = "cell-1"
	}
	a, err := cell.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		assert.NoError(t, <-ended)
	})
	return a
}

func TestAgentOverMemory(t *testing.T) {
	t.Parallel()
	celltest.RunCell(t, func(t *testing.T) celltest.Cell {
		m := cell.NewMemory(cell.MemoryConfig{Programs: programs()})
		t.Cleanup(func() {
			left, _ := m.Containers(context.Background())
			assert.Empty(t, left)
		})
		return celltest.Cell{Cell: running(t, cell.AgentConfig{Runtime: m}), Program: program}
	})
}
