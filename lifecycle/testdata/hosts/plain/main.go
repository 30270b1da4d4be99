// Plain is a host program: it prepares itself in the folder that is its argument, and starts
// an init from there. It links cgo where there is any.
package main

import (
	"context"
	"fmt"
	"io"
	_ "net" // has cgo in it
	"os"
	_ "os/user"
	"path/filepath"

	"github.com/dewpoint-go/dewpoint/lifecycle"
)

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir string) error {
	p, err := lifecycle.Prepare(ctx, lifecycle.Config{Dir: dir})
	if err != nil {
		return err
	}
	state := filepath.Join(dir, "state")
	cmd := p.Command(ctx, "init", "-state", state, "--", "echo", "hello")
	if err := p.Start(cmd); err != nil {
		return err
	}
	defer func() { _ = cmd.Wait() }()
	o, err := lifecycle.OpenOutput(state)
	if err != nil {
		return err
	}
	defer func() { _ = o.Close() }()
	for {
		c, err := o.Next(ctx)
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		fmt.Printf("%s", c.Data)
	}
}
