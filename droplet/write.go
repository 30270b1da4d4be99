package droplet

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dewpoint-go/dewpoint/internal/stream"
)

// Options of [Write]. The zero value is for droplets.
type Options struct {
	// ModTime is the time of each entry, in whole seconds. Zero: 1980-01-01 UTC, the
	// earliest that zip can hold too.
	ModTime time.Time
	// KeepTimes gives each file and folder its own time, in whole seconds, instead of
	// ModTime; "./" and links, whose times few can set, keep ModTime. The bytes then change when times do. In return, what compares times still works: Python
	// takes compiled files for fresh by the time of their source, and web servers make
	// ETags of time and size.
	KeepTimes bool
	// Owner of each entry. Zero: vcap, as buildpack apps run.
	Owner Owner
	// Plain leaves the tar uncompressed.
	Plain bool
	// Level of compression, 1 to 9. 0: 6, which comes within 4 % of what gzip makes.
	Level int
	// Parallel is the number of blocks compressed at one time. 0: GOMAXPROCS. It has no
	// influence on the bytes.
	Parallel int
	// Skipped, if set, is told of each socket, pipe and device, which are then left out.
	// Otherwise they are refused. Called from one goroutine.
	Skipped func(path string)
}

// Owner is what a tar header says of the owner of a file.
type Owner struct {
	UID, GID    int
	User, Group string
}

var vcap = Owner{UID: 2000, GID: 2000, User: "vcap", Group: "vcap"}

var epoch = time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)

// Info tells what was written.
type Info struct {
	Size   int64  // bytes written
	SHA256 string // of them, in hex
	Files  int    // regular files in it
	Bytes  int64  // sum of their sizes
}

// Write writes the tree below dir as a gzipped tar to w.
//
// Names are as "tar -C dir -czf w ." gives them: "./", "./app/", "./app/main". Each folder
// is followed by its files and links, then by its folders, both in the order of their
// bytes, so the staging info of a droplet stands at its front. Permission bits are kept,
// except that "./" always has 0755; links are kept as they are and never followed; hard
// links become files of their own.
//
// The bytes depend on names, contents, permissions, link targets and Options alone. A file
// that can't be read, or that changes its size meanwhile, is an error that names it. On an
// error w has received a useless part. When ctx ends, Write returns soon after; it can't
// interrupt a Write of w that blocks.
func Write(ctx context.Context, w io.Writer, dir string, o Options) (Info, error) {
	if o.ModTime.IsZero() {
		o.ModTime = epoch
	}
	if o.Owner == (Owner{}) {
		o.Owner = vcap
	}
	if err := o.compression(); err != nil {
		return Info{}, fmt.Errorf("write archive of %s: %w", dir, err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return Info{}, fmt.Errorf("write archive: %w", err)
	}
	sum := sha256.New()
	out := &stream.Counter{W: io.MultiWriter(sum, w)}
	a := &archiver{o: o}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var g errgroup.Group
	// The walk owns root; what it finds goes in order to the tar, by way of the readers.
	// Who fails says so before closing anything: an early end must not look like the end.
	found, toRead := make(chan *item, 64), make(chan *item, 64)
	g.Go(func() error {
		defer close(found)
		defer close(toRead)
		err := (&walker{ctx: ctx, o: o, found: found, toRead: toRead}).walk(root)
		if err != nil {
			cancel(err)
		}
		return err
	})
	for range 4 {
		g.Go(func() error {
			for it := range toRead {
				it.read()
			}
			return nil
		})
	}
	g.Go(func() error {
		err := a.write(ctx, out, found)
		if err != nil {
			cancel(err)
		}
		drain(found)
		return err
	})
	if g.Wait() != nil {
		return Info{}, fmt.Errorf("write archive of %s: %w", dir, context.Cause(ctx))
	}
	a.info.Size, a.info.SHA256 = out.N, hex.EncodeToString(sum.Sum(nil))
	return a.info, nil
}

// archiver writes items as tar entries.
type archiver struct {
	o    Options
	info Info
	buf  []byte
}

func (a *archiver) write(ctx context.Context, w io.Writer, found <-chan *item) error {
	if !a.o.Plain {
		return compress(ctx, w, a.o.Level, a.o.Parallel, func(w io.Writer) error { return a.tar(ctx, w, found) })
	}
	bw := bufio.NewWriterSize(w, 256<<10)
	if err := a.tar(ctx, bw, found); err != nil {
		return err
	}
	return bw.Flush()
}

func (a *archiver) tar(ctx context.Context, w io.Writer, found <-chan *item) error {
	tw := tar.NewWriter(w)
	for it := range found {
		if err := ctx.Err(); err != nil {
			it.drop()
			return err
		}
		err := a.entry(ctx, tw, it)
		it.drop()
		if err != nil {
			return fmt.Errorf("%s: %w", it.path, err)
		}
	}
	if err := ctx.Err(); err != nil {
		return err // the walk ended early
	}
	return tw.Close()
}

func (a *archiver) entry(ctx context.Context, tw *tar.Writer, it *item) error {
	<-it.done
	if it.err != nil {
		return it.err
	}
	h := tar.Header{
		Name: it.path, Mode: int64(it.fi.Mode().Perm()), ModTime: a.o.ModTime.Truncate(time.Second),
		Uid: a.o.Owner.UID, Gid: a.o.Owner.GID, Uname: a.o.Owner.User, Gname: a.o.Owner.Group,
	}
	if a.o.KeepTimes && it.path != "./" && it.fi.Mode()&fs.ModeSymlink == 0 {
		h.ModTime = it.fi.ModTime().Truncate(time.Second)
	}
	switch {
	case it.fi.IsDir():
		h.Typeflag = tar.TypeDir
		if it.path == "./" {
			h.Mode = 0o755
		}
	case it.fi.Mode()&fs.ModeSymlink != 0:
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, it.link, 0o777
	default:
		h.Typeflag, h.Size = tar.TypeReg, it.size
	}
	if err := tw.WriteHeader(&h); err != nil {
		return err
	}
	if h.Typeflag != tar.TypeReg {
		return nil
	}
	a.info.Files++
	a.info.Bytes += it.size
	if it.file == nil {
		_, err := tw.Write(it.data)
		return err
	}
	return a.stream(ctx, tw, it)
}

// stream copies a file that is too large to be read ahead.
func (a *archiver) stream(ctx context.Context, tw *tar.Writer, it *item) error {
	if a.buf == nil {
		a.buf = make([]byte, 256<<10)
	}
	for left := it.size; left > 0; {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := it.file.Read(a.buf[:min(left, int64(len(a.buf)))])
		if _, werr := tw.Write(a.buf[:n]); werr != nil {
			return werr
		}
		if left -= int64(n); left == 0 {
			break
		}
		if err == io.EOF {
			return errChanged
		}
		if err != nil {
			return err
		}
	}
	if n, _ := it.file.Read(a.buf[:1]); n > 0 {
		return errChanged
	}
	return nil
}
