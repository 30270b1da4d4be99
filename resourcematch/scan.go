package resourcematch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/dewpoint-go/dewpoint/internal/tarfs"
)

// DefaultMaxPackage is the largest sum of uncompressed sizes, in bytes.
const DefaultMaxPackage = 1 << 30

// ScanOptions changes what Scan does. The zero value is Cloud Foundry's CLI's way.
type ScanOptions struct {
	// MaxPackage is the largest sum of uncompressed sizes, in bytes; 0: DefaultMaxPackage,
	// negative: none.
	MaxPackage int64
	// Ignore are further lines in .cfignore's syntax; those of .cfignore come after.
	Ignore []string
	// NoHash leaves the digests out: for a caller that won't match.
	NoHash bool
	// Workers is how many files are read at a time; 0: one for each processor.
	Workers int
	// Progress is told how far it is, after each file, by one goroutine at a time. It must
	// not block. Nil: nobody is told.
	Progress func(Progress)
}

// Progress counts what has been read, of a total that is known from the beginning.
type Progress struct {
	Files, TotalFiles int
	Bytes, TotalBytes int64
}

// Files is an app that was scanned. It may be used by several goroutines until Close.
type Files struct {
	// Entries are in the order of their paths' bytes. They must not be changed.
	Entries []Entry

	open   map[string]func() (io.ReadCloser, error)
	closer io.Closer
}

// item is an entry and, for a regular file, its content.
type item struct {
	Entry
	open func() (io.ReadCloser, error)
}

// Scan reads an app from a file system. Symbolic links are kept as links; a file system
// that has some must be an fs.ReadLinkFS, as those of os.DirFS and os.Root are. What is
// neither file, directory nor link is refused, and so are names that are not UTF-8. What
// makes the app unfit for a push is an *Error. The Files read fsys as long as they are
// used; nothing need be closed.
func Scan(ctx context.Context, fsys fs.FS, o ScanOptions) (*Files, error) {
	text, err := readIgnore(func() (io.ReadCloser, error) { return fsys.Open(".cfignore") })
	if err != nil {
		return nil, err
	}
	w := &walker{ctx: ctx, fsys: fsys, ig: newIgnores(strings.Join(append(slices.Clone(o.Ignore), text), "\n")), limit: limitOf(o.MaxPackage)}
	if err := w.dir(".", -1); err != nil {
		return nil, err
	}
	return finishScan(ctx, w.items, o)
}

// ScanPath reads an app from a directory of this machine, from which no link leads out, or
// from a zip, jar or war archive, which is read in place. The caller must Close the Files.
func ScanPath(ctx context.Context, name string, o ScanOptions) (*Files, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	}
	if !fi.IsDir() {
		return scanFile(ctx, name, fi, o)
	}
	root, err := os.OpenRoot(name)
	if err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	}
	f, err := Scan(ctx, root.FS(), o)
	if err != nil {
		root.Close()
		return nil, named(err, name)
	}
	f.closer = root
	return f, nil
}

func scanFile(ctx context.Context, name string, fi fs.FileInfo, o ScanOptions) (*Files, error) {
	if !fi.Mode().IsRegular() {
		return nil, &Error{Reason: BadFile, Path: name, Detail: "it is " + kindOf(fi.Mode())}
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("scan: %w", err)
	}
	f, err := scanZip(ctx, file, fi.Size(), o)
	var e *Error
	if errors.As(err, &e) && e.Reason == BadArchive && !startsLikeZip(file) {
		err = &Error{Reason: NotAnArchive, Path: filepath.Base(name), Err: err}
	}
	if err != nil {
		file.Close()
		return nil, named(err, name)
	}
	f.closer = file
	return f, nil
}

func scanZip(ctx context.Context, r io.ReaderAt, size int64, o ScanOptions) (*Files, error) {
	all, err := openZip(r, size, 0)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].open != nil {
			all[i].Mode |= DefaultMode // many archives are made where files have no modes
		}
	}
	text := ""
	if i := slices.IndexFunc(all, func(it item) bool { return it.Path == ".cfignore" && it.Regular() }); i >= 0 {
		if text, err = readIgnore(all[i].open); err != nil {
			return nil, err
		}
	}
	ig := newIgnores(strings.Join(append(slices.Clone(o.Ignore), text), "\n"))
	above := map[string]verdict{".": -1}
	var judge func(p string, dir bool) verdict
	judge = func(p string, dir bool) verdict {
		if v, ok := above[p]; ok {
			return v
		}
		v := ig.judge(judge(path.Dir(p), true), p, dir)
		if dir {
			above[p] = v
		}
		return v
	}
	var items []item
	for _, it := range all {
		if !ig.ignored(judge(it.Path, it.Dir)) {
			items = append(items, it)
		}
	}
	return finishScan(ctx, items, o)
}

// finishScan checks and hashes what a walk or an archive yielded.
func finishScan(ctx context.Context, items []item, o ScanOptions) (*Files, error) {
	if !slices.ContainsFunc(items, func(it item) bool { return !it.Dir }) {
		return nil, &Error{Reason: Empty}
	}
	slices.SortFunc(items, func(a, b item) int { return strings.Compare(a.Path, b.Path) })
	if err := checkSum(items, limitOf(o.MaxPackage)); err != nil {
		return nil, err
	}
	if !o.NoHash {
		if err := hashAll(ctx, items, o); err != nil {
			return nil, err
		}
	}
	f := &Files{Entries: make([]Entry, len(items)), open: make(map[string]func() (io.ReadCloser, error), len(items))}
	for i, it := range items {
		f.Entries[i] = it.Entry
		if it.open != nil {
			f.open[it.Path] = it.open
		}
	}
	return f, nil
}

func checkSum(items []item, limit int64) error {
	var sum int64
	for i := range items {
		if sum += items[i].Size; sum > limit || sum < 0 {
			return tooLarge(items[i].Path, items[i].Size, limit)
		}
	}
	return nil
}

func tooLarge(path string, size, limit int64) error {
	e := &Error{Reason: TooLarge, Path: path, Limit: limit}
	if size > limit {
		e.Detail = fmt.Sprintf("it alone has %d", size)
	}
	return e
}

func limitOf(n int64) int64 {
	switch {
	case n == 0:
		return DefaultMaxPackage
	case n < 0:
		return 1<<63 - 1
	}
	return n
}

// named adds the app's place to an error that would not tell it.
func named(err error, name string) error {
	var e *Error
	if errors.As(err, &e) && e.Reason == Empty && e.Path == "" {
		e.Path, e.Detail = name, "in "+name
	}
	return err
}

// readIgnore reads a .cfignore. Of a monstrous one, the beginning must do.
func readIgnore(open func() (io.ReadCloser, error)) (string, error) {
	f, err := open()
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("scan: read .cfignore: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 1<<20))
	if err != nil {
		return "", fmt.Errorf("scan: read .cfignore: %w", err)
	}
	return string(b), nil
}

type walker struct {
	ctx   context.Context
	fsys  fs.FS
	ig    *ignores
	limit int64
	sum   int64
	items []item
}

func (w *walker) dir(dir string, above verdict) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	list, err := fs.ReadDir(w.fsys, dir)
	if err != nil {
		return unreadable(dir, err)
	}
	for _, d := range list {
		p := d.Name()
		if dir != "." {
			p = dir + "/" + p
		}
		v := w.ig.judge(above, p, d.IsDir())
		skip := w.ig.ignored(v)
		if d.IsDir() && !w.ig.prune(v) {
			// Under an ignored directory some file may be wanted again.
			if !skip {
				if err := w.add(p, d); err != nil {
					return err
				}
			}
			if err := w.dir(p, v); err != nil {
				return err
			}
			continue
		}
		if skip {
			continue
		}
		if err := w.add(p, d); err != nil {
			return err
		}
	}
	return nil
}

// unreadable makes what the app's owner can mend an *Error.
func unreadable(p string, err error) error {
	if errors.Is(err, fs.ErrPermission) {
		return &Error{Reason: BadFile, Path: p, Detail: "it may not be read; allow that, or name it in .cfignore", Err: err}
	}
	return fmt.Errorf("scan: %w", err)
}

func (w *walker) add(p string, d fs.DirEntry) error {
	// What no cell would unpack is told while its owner listens.
	if strings.Count(p, "/") >= tarfs.MaxDepth || len(p) > tarfs.MaxName {
		return &Error{Reason: BadFile, Path: p[:min(len(p), 100)] + "…", Detail: fmt.Sprintf("it lies more than %d folders deep, or its path is longer than %d bytes; "+
			"move it, or name it in .cfignore", tarfs.MaxDepth, tarfs.MaxName)}
	}
	if !utf8.ValidString(p) {
		return notUTF8(p)
	}
	fi, err := d.Info()
	if err != nil {
		return fmt.Errorf("scan: %w", err)
	}
	it := item{Entry: Entry{Fingerprint: Fingerprint{Path: p, Mode: modeOf(fi.Mode())}}}
	switch m := fi.Mode(); {
	case m.IsDir():
		it.Dir = true
		it.Mode |= 0o700 // what its owner can't enter, nobody can unpack
	case m&fs.ModeSymlink != 0:
		if it.Link, err = fs.ReadLink(w.fsys, p); err != nil {
			return fmt.Errorf("scan: link %q can't be read, use os.DirFS or another fs.ReadLinkFS: %w", p, err)
		}
		it.Link, it.Mode = filepath.ToSlash(it.Link), 0o777
	case m.IsRegular():
		it.Size = fi.Size()
		it.open = func() (io.ReadCloser, error) { return w.fsys.Open(p) }
		if w.sum += it.Size; w.sum > w.limit {
			return tooLarge(p, it.Size, w.limit)
		}
	default:
		return &Error{Reason: BadFile, Path: p, Detail: "it is " + kindOf(m) + "; remove it, or name it in .cfignore"}
	}
	w.items = append(w.items, it)
	return nil
}

// modeOf keeps the permission bits. Windows has no such bits, so there each file may be
// executed, as Cloud Foundry's CLI has it.
func modeOf(m fs.FileMode) Mode {
	mode := Mode(m.Perm())
	if runtime.GOOS == "windows" {
		mode |= 0o700
	}
	return mode
}

func kindOf(m fs.FileMode) string {
	switch {
	case m&fs.ModeDevice != 0:
		return "a device"
	case m&fs.ModeSocket != 0:
		return "a socket"
	case m&fs.ModeNamedPipe != 0:
		return "a named pipe"
	}
	return "neither a file, a directory nor a link"
}

// Open opens a regular file by the path that its entry has.
func (f *Files) Open(path string) (io.ReadCloser, error) {
	open := f.open[path]
	if open == nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return open()
}

// Fingerprints returns those of the regular files, in order.
func (f *Files) Fingerprints() []Fingerprint {
	out := make([]Fingerprint, 0, len(f.open))
	for i := range f.Entries {
		if f.Entries[i].Regular() {
			out = append(out, f.Entries[i].Fingerprint)
		}
	}
	return out
}

// Size returns the sum of the sizes in bytes.
func (f *Files) Size() int64 {
	var n int64
	for i := range f.Entries {
		n += f.Entries[i].Size
	}
	return n
}

// Close closes what ScanPath opened.
func (f *Files) Close() error {
	if f.closer == nil {
		return nil
	}
	return f.closer.Close()
}
