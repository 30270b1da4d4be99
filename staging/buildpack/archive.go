package buildpack

import (
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
	"path/filepath"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/internal/stream"
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

// What no further try will mend.
var (
	errInvalid = errors.New("malformed buildpack")
	errDigest  = errors.New("sha256 differs")
)

func invalid(name string, err error) error {
	e := &staging.Error{Reason: staging.BuildpackInvalid, Phase: staging.PhasePlan, Text: "buildpack " + name + " cannot be used", Err: err}
	switch {
	case errors.Is(err, errInvalid):
		e.Cure = "mend it, or name another"
	case errors.Is(err, errDigest):
		e.Cure = "if the change is meant, give the new digest"
	}
	return e
}

func unavailable(name string, err error) error {
	if errors.Is(err, errInvalid) || errors.Is(err, errDigest) {
		return invalid(name, err)
	}
	e := &staging.Error{Reason: staging.BuildpackUnavailable, Phase: staging.PhasePlan, Retryable: true,
		Text: "buildpack " + name + " could not be fetched", Err: err}
	if errors.Is(err, fs.ErrNotExist) {
		e.Retryable, e.Cure = false, "is it spelled right, and may it be read?"
	}
	return e
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
		if err := checkArchive(p); err != nil {
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
		return archive{}, fmt.Errorf("%w: the catalogue says %s, and %s has %s", errDigest, want, p, a.sha256)
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
	if _, err := io.Copy(h, &stream.Reader{Ctx: ctx, R: f}); err != nil {
		return "", err
	}
	return hexSum(h), nil
}
