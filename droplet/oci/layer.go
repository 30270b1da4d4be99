package oci

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"

	"github.com/dewpoint-go/dewpoint/droplet"
	"github.com/dewpoint-go/dewpoint/internal/stream"
)

const (
	home        = "home/vcap/" // where the droplet lies
	launcherDir = "opt/dewpoint/"
	programName = "dewpoint-lifecycle" // programName, without which it takes no role
)

// epoch is the time of all that has none of its own; that of droplets.
var epoch = v1.Time{Time: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)}

// fileLayer is a gzipped layer in a file.
type fileLayer struct {
	path         string
	digest, diff v1.Hash
	size         int64
	media        types.MediaType
}

func (l *fileLayer) Digest() (v1.Hash, error)             { return l.digest, nil }
func (l *fileLayer) DiffID() (v1.Hash, error)             { return l.diff, nil }
func (l *fileLayer) Size() (int64, error)                 { return l.size, nil }
func (l *fileLayer) MediaType() (types.MediaType, error)  { return l.media, nil }
func (l *fileLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.path) }
func (l *fileLayer) Uncompressed() (io.ReadCloser, error) { return gunzipFile(l.path) }

func gunzipFile(file string) (io.ReadCloser, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bufio.NewReaderSize(f, 256<<10))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return struct {
		io.Reader
		io.Closer
	}{z, f}, nil
}

// as is a layer with the media type that suits the image it becomes part of.
type as struct {
	v1.Layer
	media types.MediaType
}

func (a as) MediaType() (types.MediaType, error) { return a.media, nil }

func sum(h hash.Hash) v1.Hash {
	return v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(h.Sum(nil))}
}

// spool makes a layer of the tar that fill writes.
func (w workshop) spool(ctx context.Context, fill func(io.Writer) error) (_ *fileLayer, err error) {
	f, err := os.CreateTemp(w.dir, ".layer-*")
	if err != nil {
		return nil, err
	}
	l := &fileLayer{path: f.Name(), media: types.OCILayer}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	packed, plain := sha256.New(), sha256.New()
	err = droplet.Compress(ctx, io.MultiWriter(packed, f), droplet.Options{Level: w.level}, func(z io.Writer) error {
		b := bufio.NewWriterSize(io.MultiWriter(plain, z), 256<<10)
		if err := fill(b); err != nil {
			return err
		}
		return b.Flush()
	})
	if err == nil {
		err = f.Chmod(0o644)
	}
	fi, serr := f.Stat()
	if err = errors.Join(err, serr, f.Close()); err != nil {
		return nil, err
	}
	l.digest, l.diff, l.size = sum(packed), sum(plain), fi.Size()
	if !w.keep {
		return l, nil
	}
	l.path = filepath.Join(w.dir, l.digest.Hex)
	return l, os.Rename(f.Name(), l.path)
}

// launcherLayer holds the program, and the links by which it is started.
func (w workshop) launcherLayer(ctx context.Context, program string) (*fileLayer, error) {
	f, err := os.Open(program)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	fi, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !fi.Mode().IsRegular() {
		return nil, errors.New("it is not a file")
	}
	return w.spool(ctx, func(out io.Writer) error {
		t := tar.NewWriter(out)
		for _, h := range []tar.Header{
			{Typeflag: tar.TypeDir, Name: launcherDir, Mode: 0o755},
			{Typeflag: tar.TypeReg, Name: launcherDir + programName, Mode: 0o755, Size: fi.Size()},
			{Typeflag: tar.TypeSymlink, Name: launcherDir + "launcher", Linkname: programName, Mode: 0o777},
			{Typeflag: tar.TypeSymlink, Name: launcherDir + "shell", Linkname: programName, Mode: 0o777},
		} {
			h.ModTime = epoch.Time
			if err := t.WriteHeader(&h); err != nil {
				return err
			}
			if h.Typeflag == tar.TypeReg {
				if _, err := io.Copy(t, f); err != nil {
					return err
				}
			}
		}
		return t.Close()
	})
}

// dirLayer makes a layer of a root filesystem; all of it is root's.
func (w workshop) dirLayer(ctx context.Context, dir string) (*fileLayer, error) {
	return w.spool(ctx, func(out io.Writer) error {
		_, err := droplet.Write(ctx, out, dir, droplet.Options{
			Plain: true, Owner: droplet.Owner{User: "root", Group: "root"}, Skipped: func(string) {},
		})
		return err
	})
}

// dropletLayer makes a layer of a droplet, and says what its SHA-256 is.
func (w workshop) dropletLayer(ctx context.Context, file string) (*fileLayer, string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, "", err
	}
	defer func() { _ = f.Close() }() // it was only read
	seen := sha256.New()
	in := bufio.NewReaderSize(io.TeeReader(&stream.Reader{Ctx: ctx, R: f}, seen), 256<<10)
	z, err := gzip.NewReader(in)
	if err != nil {
		return nil, "", fmt.Errorf("read droplet: %w", err)
	}
	defer func() { _ = z.Close() }() // it frees nothing
	l, err := w.spool(ctx, func(out io.Writer) error { return rename(out, z, intoHome) })
	if err == nil {
		_, err = io.Copy(io.Discard, in)
	}
	if err != nil {
		return nil, "", fmt.Errorf("read droplet: %w", err)
	}
	return l, hex.EncodeToString(seen.Sum(nil)), nil
}

// rename copies a tar with other names, and reads it to its end. The headers are written anew, as
// droplet.Write writes them, so that a droplet which comes back has the same bytes.
func rename(out io.Writer, in io.Reader, name func(string) (string, error)) error {
	r, w := tar.NewReader(in), tar.NewWriter(out)
	buf := make([]byte, 256<<10)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		n := tar.Header{
			Typeflag: h.Typeflag, Linkname: h.Linkname, Size: h.Size, Mode: h.Mode, ModTime: h.ModTime.Truncate(time.Second),
			Uid: h.Uid, Gid: h.Gid, Uname: h.Uname, Gname: h.Gname,
		}
		switch h.Typeflag {
		case tar.TypeXGlobalHeader:
			continue
		case tar.TypeReg, tar.TypeDir, tar.TypeSymlink:
		case tar.TypeLink:
			if n.Linkname, err = name(h.Linkname); err != nil {
				return err
			}
		default:
			return fmt.Errorf("entry %q: it is of type %q, which no droplet has", h.Name, h.Typeflag)
		}
		if n.Name, err = name(h.Name); err != nil {
			return err
		}
		if err := w.WriteHeader(&n); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, buf); err != nil {
			return fmt.Errorf("entry %q: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // its checksum stands at its end
		return err
	}
	return w.Close()
}

// intoHome is where an entry of a droplet lies in the image.
func intoHome(name string) (string, error) {
	clean := path.Clean(name)
	switch {
	case clean == ".":
		return home, nil
	case path.IsAbs(name) || clean == ".." || strings.HasPrefix(clean, "../"):
		return "", fmt.Errorf("entry %q: it lies outside the droplet", name)
	case strings.HasPrefix(path.Base(clean), ".wh."):
		return "", fmt.Errorf("entry %q: in an image a file of that name deletes another", name)
	case strings.HasSuffix(name, "/"):
		clean += "/"
	}
	return home + clean, nil
}

// outOfHome is the reverse.
func outOfHome(name string) (string, error) {
	rest, ok := strings.CutPrefix(name, home)
	clean := path.Clean(rest)
	if !ok || path.IsAbs(rest) || clean == ".." || strings.HasPrefix(clean, "../") {
		return "", fmt.Errorf("entry %q: it lies outside /%s", name, home)
	}
	return "./" + rest, nil
}
