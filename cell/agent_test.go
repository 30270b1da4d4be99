package cell_test

import (
	"context"
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
