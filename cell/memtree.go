package cell

import (
	"archive/tar"
	"archive/zip"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/internal/stream"
)

// memTree is a file tree by absolute, clean path. Nodes are never changed, so trees share
// them; folders have a node each.
type memTree map[string]*memNode

type memNode struct {
	mode fs.FileMode
	data []byte
	link string // of a symbolic link
	mod  time.Time
}

var errEscapes error = &ArchiveError{errors.New("the entry would leave its folder")}

// put sets a node and makes the folders above it.
func (t memTree) put(at string, n *memNode) error {
	if at == "/" {
		if n.mode.IsDir() {
			return nil
		}
		return errEscapes
	}
	for dir := path.Dir(at); ; dir = path.Dir(dir) {
		have := t[dir]
		if have == nil {
			t[dir] = &memNode{mode: fs.ModeDir | 0o755, mod: n.mod}
		} else if !have.mode.IsDir() {
			return fmt.Errorf("%s is not a folder", dir)
		}
		if dir == "/" {
			break
		}
	}
	if have := t[at]; have != nil && have.mode.IsDir() != n.mode.IsDir() {
		return fmt.Errorf("%s is there already and is of another kind", at)
	}
	t[at] = n
	return nil
}

// graft puts a tree in below dir. Nothing of it is put through a link.
func (t memTree) graft(dir string, part memTree) error {
	at, err := t.resolve(path.Join("/", dir))
	if err != nil {
		return err
	}
	if err := t.put(at, &memNode{mode: fs.ModeDir | 0o755}); err != nil {
		return err
	}
	for _, p := range slices.Sorted(maps.Keys(part)) {
		if err := t.put(path.Join(at, p), part[p]); err != nil {
			return err
		}
	}
	return nil
}

// resolve follows links, also those of the folders above. What does not exist stays as it is.
func (t memTree) resolve(name string) (string, error) {
	rest := strings.Split(strings.Trim(path.Clean(name), "/"), "/")
	at := "/"
	for links := 0; len(rest) > 0; {
		next := path.Join(at, rest[0])
		rest = rest[1:]
		n := t[next]
		if n == nil || n.mode&fs.ModeSymlink == 0 {
			at = next
			continue
		}
		if links++; links > 40 {
			return "", errors.New("too many links")
		}
		to := n.link
		if !path.IsAbs(to) {
			to = path.Join(at, to)
		}
		at = "/"
		rest = append(strings.Split(strings.Trim(path.Clean(to), "/"), "/"), rest...)
	}
	return at, nil
}

// file returns a regular file.
func (t memTree) file(name string) (*memNode, error) {
	at, err := t.resolve(path.Join("/", name))
	if err != nil {
		return nil, err
	}
	n := t[at]
	if n == nil {
		return nil, fs.ErrNotExist
	}
	if !n.mode.IsRegular() {
		return nil, errors.New("not a regular file")
	}
	return n, nil
}

// unpack reads an archive to its end into dir.
func (t memTree) unpack(ctx context.Context, dir string, r io.Reader) error {
	r = &stream.Reader{Ctx: ctx, R: r}
	br := bufio.NewReader(r)
	magic, _ := br.Peek(4)
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(br)
		if err != nil {
			return err
		}
		if err := t.untar(dir, zr); err != nil {
			return err
		}
	case bytes.HasPrefix(magic, []byte("PK\x03\x04")), bytes.HasPrefix(magic, []byte("PK\x05\x06")):
		if err := t.unzip(dir, br); err != nil {
			return err
		}
	default:
		if err := t.untar(dir, br); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, br)
	return err
}

func entryPath(dir, name string) (string, error) {
	if path.IsAbs(name) || slices.Contains(strings.Split(name, "/"), "..") || strings.Contains(name, "\\") {
		return "", fmt.Errorf("%q: %w", name, errEscapes)
	}
	return path.Join(dir, name), nil
}

func (t memTree) untar(dir string, r io.Reader) error {
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			_, err = io.Copy(io.Discard, r) // the trailer: gzip's check comes after it
			return err
		}
		if err != nil {
			return err
		}
		at, err := entryPath(dir, h.Name)
		if err != nil {
			return err
		}
		n := &memNode{mode: h.FileInfo().Mode() & (fs.ModeDir | fs.ModeSymlink | fs.ModePerm), mod: h.ModTime}
		switch h.Typeflag {
		case tar.TypeDir:
		case tar.TypeReg:
			if n.data, err = io.ReadAll(tr); err != nil {
				return err
			}
		case tar.TypeSymlink:
			n.link = h.Linkname
		case tar.TypeLink:
			to, err := entryPath(dir, h.Linkname)
			if err != nil {
				return err
			}
			if n, err = t.file(to); err != nil {
				return fmt.Errorf("%q links to %q: %w", h.Name, h.Linkname, err)
			}
		case tar.TypeXGlobalHeader:
			continue
		default:
			return fmt.Errorf("%q is neither a file nor a folder nor a link", h.Name)
		}
		if err := t.put(at, n); err != nil {
			return fmt.Errorf("%q: %w", h.Name, err)
		}
	}
}

func (t memTree) unzip(dir string, r io.Reader) error {
	all, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	zr, err := zip.NewReader(bytes.NewReader(all), int64(len(all)))
	if err != nil {
		return err
	}
	for _, f := range zr.File {
		at, err := entryPath(dir, f.Name)
		if err != nil {
			return err
		}
		n := &memNode{mode: f.Mode() & (fs.ModeDir | fs.ModeSymlink | fs.ModePerm), mod: f.Modified}
		if !n.mode.IsDir() {
			fr, err := f.Open()
			if err != nil {
				return err
			}
			n.data, err = io.ReadAll(fr)
			fr.Close()
			if err != nil {
				return fmt.Errorf("%q: %w", f.Name, err)
			}
			if n.mode&fs.ModeSymlink != 0 {
				n.link, n.data = string(n.data), nil
			}
		}
		if err := t.put(at, n); err != nil {
			return fmt.Errorf("%q: %w", f.Name, err)
		}
	}
	return nil
}

func newReader(b []byte) io.Reader { return bytes.NewReader(b) }
