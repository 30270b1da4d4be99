package process_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/process"
)

// A person's shell in a container: what is typed and seen is the caller's. With a size it has a terminal.
func Example_shell() {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "shell-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	r, err := process.New(ctx, process.Config{Dir: dir})
	if err != nil {
		log.Fatal(err)
	}
	defer r.Close()
	c, err := r.Create(ctx, cell.Creation{ID: "app"})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Destroy(ctx)

	s, err := c.(cell.Execer).Exec(ctx, cell.Process{Path: "/bin/sh"}, nil)
	if err != nil {
		log.Fatal(err)
	}
	defer s.Close() // ends what still runs
	go func() {
		fmt.Fprintln(s.Stdin(), "echo in $(basename $HOME); exit 3")
	}()
	said, err := io.ReadAll(s.Stdout())
	if err != nil {
		log.Fatal(err)
	}
	end, err := s.Wait(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%sstatus %d\n", said, end.Code)
	// Output:
	// in vcap
	// status 3
}
