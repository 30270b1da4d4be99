package containerd

import (
	"context"
	"fmt"
	"net"
	"os"

	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/cell/internal/stack"
)

// try runs a role in a container of a stack: that shows more than any setting of the machine.
func (k *kind) try(ctx context.Context, f *folder.Runtime, st stack.Stack) error {
	ctx, cancel := context.WithTimeout(ctx, tryWait)
	defer cancel()
	return f.Try(st.Name, func(c folder.Place, s folder.Start) (err error) {
		defer func() {
			if e := k.End(context.WithoutCancel(ctx), c); err == nil {
				err = e
			}
		}()
		if err = os.Mkdir(s.State, 0o700); err != nil {
			return err
		}
		done, err := k.Start(ctx, f.Program(), c, s)
		if err != nil {
			return fmt.Errorf("a container of stack %s does not start: %w; is the stack of this machine's architecture, and does containerd run here, "+
				"with the same processes and mounts?", st.Name, err)
		}
		select {
		case <-done:
		case <-ctx.Done():
			return ctx.Err()
		}
		return stack.Checked(s.State, st.Name)
	})
}

func dialUnix(name string) (net.Conn, error) { return net.Dial("unix", name) }
