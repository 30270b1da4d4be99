package buildpack

import (
	"archive/tar"
	"archive/zip"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/staging"
)

// archive is a buildpack as a file of this machine.
type archive struct {
	file   string
	sha256 string
	stamp  uint64 // of what it was made from
}

// input says how a cell gets a buildpack.
func (b *Runner) input(ctx context.Context, c chosen, say func(string)) (cell.Input, error) {
	in := cell.Input{Dir: "/tmp/buildpacks/" + hash64(c.key), Name: c.Name, SHA256: c.SHA256}
	l, err := parseLocation(c.Location)
	if err != nil {
		return in, invalid(c.Name, err)
	}
	if l.kind == kindBlob {
		in.Source = cell.Source(c.Location)
		return in, nil
	}
	unlock, err := b.lock(ctx, c.Location)
	if err != nil {
		return in, err
	}
	defer unlock()
	var a archive
	switch l.kind {
	case kindZip:
		if c.SHA256 != "" && l.sha256 != "" && c.SHA256 != l.sha256 {
			return in, invalid(c.Name, fmt.Errorf("its sha256 is %s in the catalogue and %s in its URL", c.SHA256, l.sha256))
		}
		a, err = b.download(ctx, l, cmp.Or(c.SHA256, l.sha256), say)
	case kindGit:
		a, err = b.clone(ctx, l, say)
	default:
		a, err = b.local(ctx, l.path, c.SHA256)
	}
	switch {
	case ctx.Err() != nil:
		return in, ctx.Err()
	case err != nil:
		return in, unavailable(c.Name, err)
	}
	in.SHA256, in.Source = a.sha256, cell.Source("dir:"+a.file)
	if b.cfg.Keep != nil {
		in.Source, err = b.cfg.Keep(ctx, a.sha256, func() (io.ReadCloser, error) { return os.Open(a.file) })
		if err != nil {
			return in, unavailable(c.Name, fmt.Errorf("keep its archive: %w", err))
		}
	}
	return in, nil
}

// errInvalid marks a buildpack that no further try will mend.
var errInvalid = errors.New("malformed buildpack")

func invalid(name string, err error) error {
	return &staging.Error{Reason: staging.BuildpackInvalid, Phase: staging.PhasePlan, Text: "buildpack " + name + " cannot be used", Err: err}
}

func unavailable(name string, err error) error {
	if errors.Is(err, errInvalid) {
		return invalid(name, err)
	}
	return &staging.Error{Reason: staging.BuildpackUnavailable, Phase: staging.PhasePlan, Retryable: !errors.Is(err, fs.ErrNotExist),
		Text: "buildpack " + name + " could not be fetched", Err: err}
}

// turn is whose turn it is to prepare a location.
type turn struct {
	taken chan struct{}
	users int
}

// lock lets one caller at a time prepare a location.
func (b *Runner) lock(ctx context.Context, location string) (func(), error) {
	b.mu.Lock()
	l := b.locks[location]
	if l == nil {
		l = &turn{taken: make(chan struct{}, 1)}
		b.locks[location] = l
	}
	l.users++
	b.mu.Unlock()
	leave := func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if l.users--; l.users == 0 {
			delete(b.locks, location)
		}
	}
	select {
	case l.taken <- struct{}{}:
		return func() { <-l.taken; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, ctx.Err()
	}
}

func (b *Runner) recall(name string, stamp uint64) (archive, bool) {
	b.mu.Lock()
	a, ok := b.known[name]
	b.mu.Unlock()
	if !ok || a.stamp != stamp {
		return archive{}, false
	}
	_, err := os.Stat(a.file) // somebody may have tidied up
	return a, err == nil
}

func (b *Runner) note(name string, a archive) {
	b.mu.Lock()
	b.known[name] = a
	b.mu.Unlock()
}

// local is a folder, which is packed, or an archive, which is taken as it lies there.
func (b *Runner) local(ctx context.Context, p, want string) (archive, error) {
	p, err := filepath.Abs(p)
	if err != nil {
		return archive{}, err
	}
	fi, err := os.Stat(p)
	if err != nil {
		return archive{}, err
	}
	if fi.IsDir() {
		return b.folder(ctx, p)
	}
	stamp := xxhash.Sum64String(fmt.Sprint(fi.Size(), fi.ModTime().UnixNano()))
	a, ok := b.recall(p, stamp)
	if !ok {
		if err := checkZip(p); err != nil {
			return archive{}, err
		}
		sum, err := fileSum(ctx, p)
		if err != nil {
			return archive{}, err
		}
		a = archive{file: p, sha256: sum, stamp: stamp}
		b.note(p, a)
	}
	if want != "" && want != a.sha256 {
		return archive{}, fmt.Errorf("%w: %s has sha256 %s; the catalogue says %s", errInvalid, p, a.sha256, want)
	}
	return a, nil
}

func (b *Runner) folder(ctx context.Context, dir string) (archive, error) {
	stamp, err := folderStamp(ctx, dir)
	if err != nil {
		return archive{}, err
	}
	if a, ok := b.recall(dir, stamp); ok {
		return a, nil
	}
	a, err := b.store(ctx, ".tar", func(w io.Writer) error { return pack(ctx, w, dir) })
	if err != nil {
		return archive{}, err
	}
	a.stamp = stamp
	b.note(dir, a)
	return a, nil
}

// store writes an archive into the Runner's folder, under the name of its digest.
func (b *Runner) store(ctx context.Context, ext string, fill func(io.Writer) error) (a archive, err error) {
	dir, err := b.folderOfArchives()
	if err != nil {
		return archive{}, err
	}
	b.tidy(dir)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return archive{}, err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	sum := sha256.New()
	err = fill(io.MultiWriter(f, sum))
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		return archive{}, err
	}
	a.sha256 = hexSum(sum)
	a.file = filepath.Join(dir, a.sha256+ext)
	return a, os.Rename(f.Name(), a.file)
}

// keepUnused is how long an archive that no location leads to any more is kept: longer than
// a staging that was planned with it can take.
const keepUnused = 24 * time.Hour

// tidy removes what earlier states of folders and branches, and crashes, have left. What
// it cannot remove it leaves for the next time.
func (b *Runner) tidy(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	used := map[string]bool{}
	b.mu.Lock()
	for _, a := range b.known {
		used[a.file] = true
	}
	b.mu.Unlock()
	for _, e := range entries {
		file := filepath.Join(dir, e.Name())
		ours := strings.HasPrefix(e.Name(), ".new-") || strings.HasPrefix(e.Name(), ".git-") || isArchive(e.Name())
		if fi, err := e.Info(); err == nil && ours && !used[file] && b.cfg.Now().Sub(fi.ModTime()) > keepUnused {
			_ = os.RemoveAll(file)
		}
	}
}

// isArchive tells the names that store gives.
func isArchive(name string) bool {
	return sha256Hex.MatchString(strings.TrimSuffix(name, filepath.Ext(name)))
}

func (b *Runner) folderOfArchives() (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.dir != "" {
		return b.dir, os.MkdirAll(b.dir, 0o700)
	}
	dir, err := os.MkdirTemp("", "dewpoint-buildpacks-")
	if err != nil {
		return "", err
	}
	b.dir, b.temp = dir, true
	return dir, nil
}

func hexSum(h hash.Hash) string { return hex.EncodeToString(h.Sum(nil)) }

func fileSum(ctx context.Context, file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, reader{ctx, f}); err != nil {
		return "", err
	}
	return hexSum(h), nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// checkZip looks for bin, at the top or one folder down, before a cell is bothered. What is
// not a zip is left to the cell.
func checkZip(file string) error {
	z, err := zip.OpenReader(file)
	if errors.Is(err, zip.ErrFormat) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = z.Close() }()
	for _, f := range z.File {
		parts := strings.Split(path.Clean(f.Name), "/")
		if parts[0] == "bin" || len(parts) > 1 && parts[1] == "bin" {
			return nil
		}
	}
	return fmt.Errorf("%w: it does not contain a /bin dir: %s", errInvalid, file)
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
		if n, err := io.Copy(tw, io.LimitReader(reader{ctx, f}, h.Size)); err != nil || n != h.Size {
			return errors.Join(err, fmt.Errorf("%s changed while it was read", rel))
		}
		return nil
	})
	if err != nil {
		return err
	}
	return tw.Close()
}
