package cell

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"
)

// settleWait is how long all that was found may take until its status is right.
const settleWait = 5 * time.Second

// adopt takes over what an earlier Agent has left. It returns when the status of each
// work is right: an instance that was healthy all the time must not seem to start anew.
func (a *Agent) adopt(ctx context.Context) error {
	if _, err := a.capacity(ctx); err != nil {
		return err
	}
	all, err := a.cfg.Runtime.Containers(ctx)
	if err != nil {
		return fmt.Errorf("cell %s: adopt: %w", a.cfg.ID, err)
	}
	found := map[string]Container{}
	ended := map[string]*job{}
	var jobs []*job
	for _, c := range all {
		info := c.Info()
		var n note
		err := json.Unmarshal(info.Note, &n)
		switch {
		case err == nil && n.Status != nil && n.Status.Work != nil && strings.HasSuffix(info.ID, tombstone):
			j := a.newJob(*n.Status.Work, n.Accepted)
			j.work.ID = n.Status.ID
			j.buried, j.status = true, *n.Status
			ended[j.work.ID] = j
		case err == nil && n.Work != nil && n.Work.ID == info.ID:
			j := a.newJob(*n.Work, n.Accepted)
			j.con, j.old = c, true
			found[info.ID] = c
			jobs = append(jobs, j)
		default:
			a.cfg.Logger.Warn("a container that no agent has made is left alone", "cell", a.cfg.ID, "container", info.ID)
		}
	}
	a.mu.Lock()
	for id, j := range ended {
		if c := found[id]; c != nil { // its end is known already, only it was not removed
			j.con = c
		}
		a.add(j)
	}
	start := jobs[:0]
	for _, j := range jobs {
		if ended[j.work.ID] == nil {
			a.add(j)
			start = append(start, j)
		}
	}
	a.mu.Unlock()
	for _, j := range ended {
		if j.con != nil {
			j.destroy()
		}
		a.wg.Go(j.run)
	}
	for _, j := range start {
		a.wg.Go(j.run)
	}
	patience := time.NewTimer(settleWait) // one work that hangs must not keep the rest waiting
	defer patience.Stop()
	for _, j := range start {
		select {
		case <-j.settled:
		case <-patience.C:
			return nil
		case <-ctx.Done():
			return nil // Run sees it
		}
	}
	return nil
}
