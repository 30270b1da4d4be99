package cell_test

import (
	"context"
	"testing"

	"go.uber.org/goleak"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func programs() map[string]func(context.Context, cell.MemoryProcess) int {
	return map[string]func(context.Context, cell.MemoryProcess) int{"test": celltest.MemoryProgram}
}

func program(args ...string) cell.Process { return cell.Process{Path: "test", Args: args} }

func TestMemory(t *testing.T) {
	t.Parallel()
	celltest.Run(t, func(*testing.T) celltest.Runtime {
		return celltest.Runtime{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()}), Program: program}
	})
}

// Not parallel: it counts what this program has.
func TestMemoryLeaksNothing(t *testing.T) {
	celltest.RunLeaks(t, func(*testing.T) celltest.Runtime {
		return celltest.Runtime{Runtime: cell.NewMemory(cell.MemoryConfig{Programs: programs()}), Program: program}
	})
}
