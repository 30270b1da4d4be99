package cell_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/celltest"
)

// A hundred works whose disks are slow to measure do not make a cell measure all the time.
func TestDisksAreMeasuredSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var busy atomic.Int64
		m := cell.NewMemory(cell.MemoryConfig{Programs: programs(), Capacity: cell.Resources{Containers: 100}})
		a := celltest.Agent(t, cell.AgentConfig{Runtime: slowDisks{m, &busy}})
		for i := range 100 {
			w := work(fmt.Sprintf("w%d", i), "wait")
			w.Spec.Disk = 1 << 20
			require.NoError(t, a.Start(t.Context(), w))
		}
		time.Sleep(time.Minute) // the first round, of ever shorter pauses
		busy.Store(0)
		time.Sleep(time.Hour)
		assert.InDelta(t, 6*time.Minute, time.Duration(busy.Load()), float64(time.Minute), "a tenth of the time")
	})
}

// slowDisks takes half a second to measure a disk.
type slowDisks struct {
	*cell.Memory
	busy *atomic.Int64
}

func (r slowDisks) Create(ctx context.Context, c cell.Creation) (cell.Container, error) {
	con, err := r.Memory.Create(ctx, c)
	if err != nil {
		return nil, err
	}
	return slowDisk{con, r.busy}, nil
}

type slowDisk struct {
	cell.Container
	busy *atomic.Int64
}

func (c slowDisk) Usage(context.Context) (cell.Usage, error) {
	time.Sleep(time.Second / 2)
	c.busy.Add(int64(time.Second / 2))
	return cell.Usage{}, nil
}
