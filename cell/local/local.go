// Package local opens the cell with the strongest isolation that this machine gives to a
// program without special rights and without a daemon: [sandbox] where it works, and where not, or
// where that is asked for, [process]. Programs that always want the same one use its package.
package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/cell/process"
	"github.com/dewpoint-go/dewpoint/cell/sandbox"
)

// None is the level of a cell that does not isolate. The others are sandbox.Landlock and sandbox.Namespaces.
const None = "none"

// Config configures [Open]. Its zero value lacks only Dir.
type Config struct {
	// Dir is where the containers are; required, and for one program at a time.
	Dir string
	// Isolation is None, or the least level: the strongest that works is taken, and Open says why if it is
	// below that. "": the strongest that works, be it None.
	Isolation string
	// Share names absolute paths of this machine that containers see too, read-only, such as a toolchain
	// in somebody's home.
	Share []string
	// Images gives the root filesystems of images; nil: none are run. It needs sandbox.Namespaces (see sandbox.Config.Images).
	Images cell.ImageRoots
	// FirstUser gives images users of their own, as root only (see sandbox.Config.FirstUser).
	FirstUser int
	// Path is the PATH on which tools of this machine are looked up. Where the machine's files are not
	// all seen, it is cut to the folders that are (Cell.Path). "": the usual folders.
	Path string
	// Logger gets what fails in the background; nil discards.
	Logger *slog.Logger
}

// Cell is what Open has opened.
type Cell struct {
	cell.Runtime
	io.Closer
	// Level is the level of isolation that it gives.
	Level string
	// Why says why no stronger level was taken, "" if that was asked for or there is none.
	Why string
	// Lacks tells what this machine does not give to containers at that level, each with the reason and the cure.
	Lacks []string
	// Path is the PATH inside, and Hidden are the folders of Config.Path that are not seen there.
	Path   string
	Hidden []string
}

// Open opens the folder. The cell is closed by Close; its containers run on.
func Open(ctx context.Context, c Config) (*Cell, error) {
	switch c.Isolation {
	case None:
		if c.Images != nil {
			return nil, fmt.Errorf("local.Open: Config.Images needs isolation: %w with %q", errors.ErrUnsupported, None)
		}
		return plain(ctx, c, nil)
	case "", sandbox.Landlock, sandbox.Namespaces:
	default:
		return nil, fmt.Errorf("local.Open: Config.Isolation is %q: use %q, %q or %q, or leave it empty for the strongest that works", c.Isolation, sandbox.Namespaces, sandbox.Landlock, None)
	}
	out := &Cell{}
	shown, hidden := sandbox.Visible(filepath.SplitList(c.Path), c.Share)
	out.Path, out.Hidden = strings.Join(shown, string(os.PathListSeparator)), hidden
	conf := sandbox.Config{Dir: c.Dir, Share: c.Share, Images: c.Images, FirstUser: c.FirstUser, AtLeast: c.Isolation, Logger: c.Logger}
	if out.Path != "" {
		conf.Env = []string{"PATH=" + out.Path}
	}
	r, err := sandbox.New(ctx, conf)
	switch {
	case err == nil:
		out.Runtime, out.Closer, out.Lacks = r, r, r.Lacks()
	case c.Isolation == "" && c.Images == nil && errors.Is(err, errors.ErrUnsupported):
		return plain(ctx, c, err)
	default:
		return nil, err
	}
	return out, out.tell(ctx)
}

func plain(ctx context.Context, c Config, why error) (*Cell, error) {
	conf := process.Config{Dir: c.Dir, Logger: c.Logger}
	if c.Path != "" {
		conf.Env = []string{"PATH=" + c.Path}
	}
	r, err := process.New(ctx, conf)
	if err != nil {
		return nil, err
	}
	out := &Cell{Runtime: r, Closer: r, Path: c.Path}
	if why != nil {
		out.Why = why.Error()
	}
	return out, out.tell(ctx)
}

func (c *Cell) tell(ctx context.Context) error {
	res, err := c.Capacity(ctx)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	c.Level = res.Isolation
	return nil
}
