package cell

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"

	"github.com/dewpoint-go/dewpoint/internal/size"
)

// OpenLocal opens sources that need nobody else: "inline:BASE64", and "dir:PATH" as a tar
// stream of a folder of this machine. Other sources: an error that wraps errors.ErrUnsupported.
func OpenLocal(ctx context.Context, s Source) (io.ReadCloser, error) {
	if b64, ok := strings.CutPrefix(string(s), "inline:"); ok {
		data, err := base64.StdEncoding.DecodeString(b64)
		if err != nil {
			return nil, fmt.Errorf("inline source: %w", err)
		}
		return io.NopCloser(newReader(data)), nil
	}
	dir, ok := strings.CutPrefix(string(s), "dir:")
	if !ok {
		kind, _, _ := strings.Cut(string(s), ":")
		return nil, fmt.Errorf("source %s: %w: give AgentConfig.Open a function that knows it", kind, errors.ErrUnsupported)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("source dir: %w", err)
	}
	r, w := io.Pipe()
	go func() {
		defer root.Close()
		w.CloseWithError(tarDir(ctx, root, w))
	}()
	return r, nil
}

// tarDir writes the tree of root. Links are written as links.
func tarDir(ctx context.Context, root *os.Root, w io.Writer) error {
	tw := tar.NewWriter(w)
	err := fs.WalkDir(root.FS(), ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		link := ""
		if info.Mode()&fs.ModeSymlink != 0 {
			if link, err = root.Readlink(p); err != nil {
				return err
			}
		} else if !info.IsDir() && !info.Mode().IsRegular() {
			return nil // sockets and devices are not part of an app
		}
		h, err := tar.FileInfoHeader(info, link)
		if err != nil {
			return err
		}
		h.Name = p
		if info.IsDir() {
			h.Name += "/"
		}
		if err := tw.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
			return err
		}
		f, err := root.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(tw, f)
		return err
	})
	if err != nil {
		return err
	}
	return tw.Close()
}

// fetch is the transfer of one input.
type fetch struct {
	j    *job
	in   Input
	size atomic.Int64
	used bool  // it was opened: the Runtime did not have it
	done bool  // it was read to its end
	err  error // of the source, not of where it goes
}

func (f *fetch) begin() {
	if f.in.Name != "" {
		f.j.say(f.j.cellSrc, "Downloading %s...", f.in.Name)
	}
}

// end tells what became of it; err is that of all, and perhaps not of this one.
func (f *fetch) end(err error) {
	if f.in.Name == "" {
		return
	}
	switch {
	case f.err != nil, err != nil && !f.done:
		f.j.say(f.j.cellSrc, "Downloading %s failed", f.in.Name)
	case f.used:
		f.j.say(f.j.cellSrc, "Downloaded %s (%s)", f.in.Name, size.Text(f.size.Load()))
	default:
		f.j.say(f.j.cellSrc, "Downloaded %s", f.in.Name)
	}
}

func (f *fetch) failure() string {
	name := f.in.Name
	if name == "" {
		name = "input for " + f.in.Dir
	}
	return "Downloading " + name + " failed: " + f.err.Error()
}

// open opens the source, and checks what comes out of it.
func (f *fetch) open(ctx context.Context) (io.ReadCloser, error) {
	f.used = true
	open := f.j.a.cfg.Open
	if strings.HasPrefix(string(f.in.Source), "inline:") {
		open = OpenLocal
	}
	r, err := open(ctx, f.in.Source)
	if err != nil {
		f.err = err
		return nil, err
	}
	c := &checkedReader{f: f, r: r, ctx: ctx}
	// A read that hangs ends when its source is closed.
	c.stop = context.AfterFunc(ctx, func() { r.Close() })
	if f.in.SHA256 != "" {
		c.sum = sha256.New()
	}
	return c, nil
}

// checkedReader counts, and compares the digest at the end.
type checkedReader struct {
	f    *fetch
	r    io.ReadCloser
	ctx  context.Context
	sum  hash.Hash // nil: not checked
	stop func() bool
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.f.size.Add(int64(n))
	if c.sum != nil {
		c.sum.Write(p[:n])
	}
	if errors.Is(err, io.EOF) && c.sum != nil {
		if got := hex.EncodeToString(c.sum.Sum(nil)); got != c.f.in.SHA256 {
			err = fmt.Errorf("its SHA-256 is %s, expected was %s", got, c.f.in.SHA256)
		}
	}
	c.f.done = c.f.done || errors.Is(err, io.EOF)
	if err != nil && !errors.Is(err, io.EOF) {
		if ctxErr := c.ctx.Err(); ctxErr != nil {
			err = ctxErr
		}
		c.f.err = err
	}
	return n, err
}

func (c *checkedReader) Close() error {
	if !c.stop() {
		return nil // closed already
	}
	return c.r.Close()
}
