//go:build linux || darwin

package folder

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

var (
	_ cell.Meter      = (*container)(nil)
	_ cell.PortLister = (*container)(nil)
)

// Usage implements cell.Meter.
func (c *container) Usage(ctx context.Context) (cell.Usage, error) {
	if err := c.enter(); err != nil {
		return cell.Usage{}, err
	}
	defer c.leave()
	u := cell.Usage{Time: time.Now().UTC()}
	err := c.eachInit(func(state string) error {
		p, err := lifecycle.InitUsage(state)
		u.CPU += p.CPU
		u.Memory += p.Memory
		u.Processes += p.Processes
		return err
	})
	if err == nil && c.r.meter != nil {
		c.r.meter.Usage(c.place(), &u)
	}
	if err == nil {
		u.Disk, err = c.disk(ctx)
	}
	if err != nil {
		return cell.Usage{}, fmt.Errorf("usage of container %s: %w", c.info.ID, err)
	}
	return u, nil
}

// Listening implements cell.PortLister.
func (c *container) Listening(context.Context) ([]int, error) {
	if err := c.enter(); err != nil {
		return nil, err
	}
	defer c.leave()
	var all []int
	err := c.eachInit(func(state string) error {
		ports, err := lifecycle.InitListening(state)
		all = append(all, ports...)
		return err
	})
	slices.Sort(all)
	return slices.Compact(all), err
}

// disk is what the container's own files take; with those of its layers, and without those of its image, which all instances share.
func (c *container) disk(ctx context.Context) (int64, error) {
	if c.meta.Image != nil {
		return diskUsage(ctx, filepath.Join(c.dir, OverlayDir))
	}
	dir, err := c.view(ctx)
	if err != nil {
		return 0, err
	}
	return diskUsage(ctx, dir)
}

// eachInit calls do for the state of each process that was started.
func (c *container) eachInit(do func(state string) error) error {
	states, err := c.states(c.dir)
	if err != nil {
		return err
	}
	for _, s := range states {
		if err := do(s); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// diskUsage adds up what the files below dir take on the disk. Programs work there meanwhile: what
// is gone when it is looked at does not count. Links are not followed.
func diskUsage(ctx context.Context, dir string) (int64, error) {
	type id struct{ dev, ino uint64 }
	linked := map[id]bool{} // counted once
	var sum int64
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			return nil //nolint:nilerr // gone, or closed to us
		}
		info, err := d.Info()
		if err != nil {
			return nil //nolint:nilerr // gone
		}
		st := info.Sys().(*syscall.Stat_t)
		if !d.IsDir() && st.Nlink > 1 {
			f := id{uint64(st.Dev), st.Ino} //nolint:unconvert // the type differs from system to system
			if linked[f] {
				return nil
			}
			linked[f] = true
		}
		sum += st.Blocks * 512
		return nil
	})
	if errors.Is(err, os.ErrNotExist) {
		return sum, nil
	}
	return sum, err
}
