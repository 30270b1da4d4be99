package buildpack

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/dewpoint-go/dewpoint/internal/stream"
)

// checkArchive reads the directory of a zip and looks for bin, at the top or one folder down.
// A tar, or a tar.gz, is left to the cell; anything else is no buildpack.
func checkArchive(file string) error {
	z, err := zip.OpenReader(file)
	if errors.Is(err, zip.ErrFormat) {
		return checkTar(file)
	}
	if err != nil {
		return err
	}
	defer func() { _ = z.Close() }()
	bin := false
	for _, f := range z.File {
		// A cell would refuse it, too; here the buildpack has a name.
		if name := strings.TrimSuffix(f.Name, "/"); !fs.ValidPath(path.Clean(name)) || strings.Contains(name, "..") && slices.Contains(strings.Split(name, "/"), "..") {
			return fmt.Errorf("%w: its entry %q leads out of it", errInvalid, f.Name)
		}
		if _, err := f.DataOffset(); err != nil {
			return fmt.Errorf("%w: the zip is damaged at %q: %w", errInvalid, f.Name, err)
		}
		parts := strings.Split(path.Clean(f.Name), "/")
		bin = bin || parts[0] == "bin" || len(parts) > 1 && parts[1] == "bin"
	}
	if !bin {
		return fmt.Errorf("%w: it does not contain a /bin dir", errInvalid)
	}
	return nil
}

func checkTar(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 512)
	n, err := io.ReadFull(f, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return err
	}
	head = head[:n]
	if bytes.HasPrefix(head, []byte("\x1f\x8b")) || n == len(head) && n > 262 && string(head[257:262]) == "ustar" {
		return nil
	}
	switch {
	case len(head) == 0:
		return fmt.Errorf("%w: the file is empty", errInvalid)
	case bytes.HasPrefix(head, []byte("PK")):
		return fmt.Errorf("%w: the zip is damaged or cut short", errInvalid)
	}
	return fmt.Errorf("%w: it is neither zip, tar nor tar.gz: it begins with %.30q", errInvalid, head)
}

// folderStamp changes when something in a folder does. It also sees to it that there is a bin.
func folderStamp(ctx context.Context, dir string) (uint64, error) {
	nested, err := filepath.Glob(filepath.Join(escape(dir), "*", "bin"))
	if _, here := os.Stat(filepath.Join(dir, "bin")); here != nil && (err != nil || len(nested) != 1) {
		return 0, fmt.Errorf("%w: it does not contain a /bin dir: %s", errInvalid, dir)
	}
	h := xxhash.New()
	err = walk(ctx, dir, func(rel string, fi fs.FileInfo) error {
		fmt.Fprintln(h, rel, fi.Mode(), fi.Size(), fi.ModTime().UnixNano())
		return nil
	})
	return h.Sum64(), err
}

// escape makes a path mean itself in a pattern.
func escape(p string) string {
	return strings.NewReplacer("[", "[[]", "*", "[*]", "?", "[?]").Replace(p)
}

// walk visits what belongs to a buildpack, in byte order of names: all but git's own folder.
func walk(ctx context.Context, dir string, visit func(rel string, fi fs.FileInfo) error) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil || rel == "." {
			return err
		}
		if d.Name() == ".git" {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		fi, err := d.Info()
		if err != nil {
			return err
		}
		return visit(filepath.ToSlash(rel), fi)
	})
}

// pack writes a folder as a tar that depends on nothing but names, bytes and whether a file
// can be run, so that the same buildpack has the same digest wherever it is checked out.
func pack(ctx context.Context, w io.Writer, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	tw := tar.NewWriter(w)
	err = walk(ctx, dir, func(rel string, fi fs.FileInfo) error {
		h := &tar.Header{Name: rel, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
		switch mode := fi.Mode(); {
		case mode.IsDir():
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
			h.Name += "/"
			return tw.WriteHeader(h)
		case mode&fs.ModeSymlink != 0:
			target, err := root.Readlink(filepath.FromSlash(rel))
			if err != nil {
				return err
			}
			if _, err := root.Stat(filepath.FromSlash(rel)); err != nil {
				return fmt.Errorf("%w: link %s to %s leads out of it or nowhere", errInvalid, rel, target)
			}
			h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, filepath.ToSlash(target), 0o777
			return tw.WriteHeader(h)
		case !mode.IsRegular():
			return fmt.Errorf("%w: %s is neither file, folder nor link", errInvalid, rel)
		}
		// A file system without such bits cannot say that a script is one.
		if fi.Mode()&0o111 != 0 || strings.Contains("/"+rel, "/bin/") && os.PathSeparator == '\\' {
			h.Mode = 0o755
		}
		f, err := root.Open(filepath.FromSlash(rel))
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		h.Size = fi.Size()
		if err := tw.WriteHeader(h); err != nil {
			return err
		}
		if n, err := io.Copy(tw, io.LimitReader(&stream.Reader{Ctx: ctx, R: f}, h.Size)); err != nil || n != h.Size {
			return errors.Join(err, fmt.Errorf("%s changed while it was read", rel))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tw.Close()
}
