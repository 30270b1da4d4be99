//go:build linux || darwin

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Runtime makes containers that are folders with plain processes. See cell.Runtime for the
// contract of its methods. A container's Note is durable when the program ends in
// whatever way; a power cut may take the container with it.
type Runtime struct{ *folder.Runtime }

var _ cell.Runtime = (*Runtime)(nil)

// New opens the folder, and finds the containers that are there. If another program has
// it open, the error says so.
func New(ctx context.Context, c Config) (*Runtime, error) {
	if c.Dir == "" {
		return nil, errors.New("process.New: Config.Dir is empty: name a folder for the containers")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("process.New: %w", err)
	}
	groups, without := folder.OpenGroups(dir)
	if without != nil && c.Logger != nil {
		c.Logger.Info("memory, processor time and processes are not limited", "reason", without)
	}
	r, err := folder.New(ctx, folder.Config{Kind: plain{groups}, Dir: c.Dir, Program: c.Program, Source: c.Source, Env: c.Env, Host: c.Host,
		Memory: c.Memory, Disk: c.Disk, Containers: c.Containers, KeepLayers: c.KeepLayers, KeepBytes: c.KeepBytes, Logger: c.Logger})
	if err != nil {
		return nil, fmt.Errorf("process.New: %w", err)
	}
	return &Runtime{r}, nil
}

// plain is the folder.Kind of plain processes.
type plain struct{ *folder.Groups }

func (k plain) Describe(r *cell.Resources) {
	r.Isolation = "none"
	k.Groups.Describe(r)
}

func (plain) Check(s cell.Spec) error {
	if s.Image != "" {
		return fmt.Errorf("image %s: %w: plain processes have no root filesystem", s.Image, errors.ErrUnsupported)
	}
	return nil
}

func (plain) Writable(cell.Spec, string) error { return nil }

func (plain) Path(root, p string) string { return filepath.Join(root, path.Clean("/"+p)) }

func (plain) Owner(*folder.Image) (int, bool) { return 0, false }

func (k plain) Start(_ context.Context, prog *lifecycle.Program, c folder.Place, s folder.Start) (<-chan struct{}, error) {
	attr := &syscall.SysProcAttr{}
	args, err := k.Enter(c, 1, attr)
	if err == nil {
		err = k.Note(c, s)
	}
	if err != nil {
		return nil, err
	}
	args = append(append(args, s.Flags(s.State)...), "-dir", k.Path(s.Root, s.Dir))
	args = append(args, "--", k.program(s.Root, s.Process.Path))
	args = append(args, s.Process.Args...)
	// The command is not a context's: the process outlives it.
	cmd := prog.Command(context.Background(), "init", args...)
	cmd.Env = []string{}
	if err := lifecycle.WriteEnvironment(s.State, slices.Concat([]string{"HOME=" + k.Path(s.Root, "/home/vcap"), "TMPDIR=" + k.Path(s.Root, "/tmp")}, s.Env, s.Process.Env)); err != nil {
		return nil, err
	}
	cmd.SysProcAttr = attr
	return folder.Child(prog, cmd, s.Line)
}

// program is what a program is called outside: one of the container, or else of this machine.
func (k plain) program(root, name string) string {
	if !path.IsAbs(name) {
		return name
	}
	if st, err := os.Stat(k.Path(root, name)); err == nil && !st.IsDir() {
		return k.Path(root, name)
	}
	return name
}
