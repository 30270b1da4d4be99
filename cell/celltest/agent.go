package celltest

import (
	"cmp"
	"context"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Agent returns an Agent, cell-1 if c gives it no other ID, that runs until t ends.
func Agent(t testing.TB, c cell.AgentConfig) *cell.Agent {
	t.Helper()
	c.ID = cmp.Or(c.ID, "cell-1")
	a, err := cell.New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the agent ended with %v", err)
		}
	})
	return a
}
