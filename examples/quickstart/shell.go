package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"golang.org/x/term"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell"
)

// shell opens a shell beside the app: in a terminal if this program is in one, else what it reads is given to the shell.
func shell(ctx context.Context, p *dewpoint.Platform, app string, out io.Writer) error {
	r := dewpoint.ShellRequest{Env: []string{"TERM=" + os.Getenv("TERM")}}
	in := int(os.Stdin.Fd())
	if term.IsTerminal(in) && term.IsTerminal(int(os.Stdout.Fd())) {
		r.Size = sizeOf(in)
	}
	s, err := p.Shell(ctx, app, r)
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }() // it has ended, or is to end
	defer context.AfterFunc(ctx, func() { _ = s.Close() })()
	fmt.Fprintf(out, "\nA shell beside %s; this program ends with it\n", app)
	if r.Size != nil {
		before, err := term.MakeRaw(in) // all that is typed is the shell's, Ctrl-C too
		if err != nil {
			return err
		}
		defer func() { _ = term.Restore(in, before) }()
		defer onResize(func() { _ = s.Resize(*sizeOf(in)) })()
	}
	go func() { // what is read here ends with this program
		_, _ = io.Copy(s.Stdin(), os.Stdin)
		_ = s.Stdin().Close()
	}()
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(os.Stderr, s.Stderr()) })
	_, _ = io.Copy(out, s.Stdout())
	wg.Wait()
	e, err := s.Wait(ctx)
	if err == nil {
		fmt.Fprintf(out, "\r\nThe shell ended with status %d\r\n", e.Code)
	}
	return err
}

func sizeOf(terminal int) *cell.TerminalSize {
	w, h, err := term.GetSize(terminal)
	if err != nil {
		return &cell.TerminalSize{Columns: 80, Rows: 24}
	}
	return &cell.TerminalSize{Columns: uint16(w), Rows: uint16(h)}
}
