package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/internal/handover"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Client starts the process of a cell and tells it whom to serve. Its methods may be called by any number of goroutines.
type Client struct {
	Dir  string // for the process; made if need be, and no other Client's
	User int    // whom the process becomes; 0: it stays who this program is

	mu sync.Mutex // held while the process is started
}

// askWait is long: the process answers at once, unless the machine has no time for it.
const askWait = 20 * time.Second

// Attach has a container served: what comes from the device of its keeper. Idempotent.
func (c *Client) Attach(ctx context.Context, p *lifecycle.Program, key string, k lifecycle.Keeper, rules []Rule) error {
	tun, err := k.Tun(ctx)
	if err != nil {
		return fmt.Errorf("the device of the network: %w", err)
	}
	defer func() { _ = tun.Close() }() // theirs is another
	fd, err := unix.PidfdOpen(k.PID, 0)
	if err != nil {
		return fmt.Errorf("watch the container: %w (Linux 5.3 can)", err)
	}
	process := os.NewFile(uintptr(fd), "pidfd")
	defer func() { _ = process.Close() }()
	for try := 0; ; try++ {
		if err := c.start(p); err != nil { //nolint:contextcheck // the process outlives the call
			return err
		}
		// One that was about to leave may have gone.
		if err = c.ask(ctx, order{Do: "attach", Key: key, Rules: rules}, tun, process); !gone(err) || try == 10 {
			return err
		}
		select {
		case <-time.After(time.Millisecond << try):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// gone tells whether the process has ended, before or in the middle of an answer.
func gone(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, fs.ErrNotExist)
}

// Detach ends what Attach has begun. If the process is no more, that is as good.
func (c *Client) Detach(ctx context.Context, key string) error {
	if err := c.ask(ctx, order{Do: "detach", Key: key}); err != nil && !gone(err) {
		return err
	}
	return nil
}

// Leave ends the process if it serves nobody, and waits for it for a moment.
func (c *Client) Leave(ctx context.Context) {
	if c.ask(ctx, order{Do: "end"}) != nil {
		return
	}
	for range 100 { // one that takes longer ends all the same
		if !c.Alive() {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// Alive tells whether the process runs.
func (c *Client) Alive() bool {
	s, err := lifecycle.InitState(c.Dir)
	return err == nil && s.Alive
}

// Ended returns a channel that closes when the process that runs now has ended.
func (c *Client) Ended() <-chan struct{} { return lifecycle.InitEnded(c.Dir) }

func (c *Client) ask(ctx context.Context, o order, files ...*os.File) error {
	b, err := json.Marshal(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askWait) // one that is stopped, and not dead, must hold up nobody
	defer cancel()
	_, err = handover.Ask(ctx, filepath.Join(c.Dir, socketFile), string(b), files...)
	return err
}

// start starts the process if none runs.
func (c *Client) start(p *lifecycle.Program) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Alive() {
		return nil
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	args := []string{c.Dir}
	if c.User != 0 {
		args = []string{"-user", strconv.Itoa(c.User), c.Dir}
	}
	cmd := p.Command(context.Background(), "uplink", args...)
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // neither Ctrl-C at our terminal nor its end is for it
	if err := p.Start(cmd); err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }() // it may outlive us
	return nil
}
