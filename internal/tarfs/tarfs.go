// Package tarfs reads archives that others made: it unpacks tar, tar.gz and zip into a
// directory so that no entry, whatever it says, touches anything outside.
//
// All writing goes through [os.Root]. Beyond that, no entry is ever written through a
// symbolic link, not even one that stays inside the directory; what an archive may ask for
// is limited; and what it claims (sizes, checksums, its own end) is checked.
package tarfs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"time"

	"github.com/dewpoint-go/dewpoint/internal/stream"
)

// Defaults of [Limits].
const (
	DefaultBytes   = 4 << 30
	DefaultEntries = 500_000
	// DefaultZipEntries is less, for the directory of a zip is held in memory.
	DefaultZipEntries = 250_000
)

// MaxNames bounds the bytes of the names that are held in memory: those of all entries of a
// zip, of the folders and some links of a tar.
const MaxNames = 48 << 20

// Links says which symbolic links an archive may hold. Whatever is chosen, a link is only
// ever made, never followed.
type Links int

const (
	// InsideLinks refuses absolute links and those that lead out of the tree.
	InsideLinks Links = iota
	// AnyLinks keeps each link as it is. For droplets and build caches: they are read in a
	// container, where an absolute link is as good as another.
	AnyLinks
	// NoLinks refuses all symbolic and hard links.
	NoLinks
)

// Limits says what an archive may hold. The zero value has the defaults written here.
type Limits struct {
	// Bytes is the sum of the sizes of all files. 0: DefaultBytes; negative: no limit.
	Bytes int64
	// Entries is the number of entries, and of folders that no entry names but that are on
	// the way to one. 0: DefaultEntries or, of a zip, DefaultZipEntries; negative: no limit.
	Entries int
	// Links: the zero value is InsideLinks.
	Links Links
	// Unique refuses a name that occurs twice; otherwise the later file replaces the
	// earlier. A file where a directory is, and the reverse, is refused in any case.
	Unique bool
	// Fold refuses two names that differ only in case or in Unicode normal form, which are
	// one name on the file systems of macOS and Windows.
	Fold bool
	// RawNames admits backslashes and names that are not UTF-8, as Linux does.
	RawNames bool
	// Spool is the directory for the temporary copy of a zip that arrives as a stream.
	// "": that of os.CreateTemp.
	Spool string
	// Owner is the user and group that everything that is made belongs to, by number; 0: who this program runs as. For
	// Unix.
	Owner int
	// Archive is what errors call the archive; may be empty.
	Archive string
}

func (l Limits) withDefaults(entries int) Limits {
	if l.Bytes == 0 {
		l.Bytes = DefaultBytes
	}
	if l.Entries == 0 {
		l.Entries = entries
	}
	return l
}

// Stats tells what was unpacked.
type Stats struct {
	Files, Dirs, Links int // directories and links that the archive names
	Bytes              int64
}

// Entry is one entry of an archive.
type Entry struct {
	// Name is as the archive has it.
	Name string
	// Mode holds permission bits and at most one of fs.ModeDir and fs.ModeSymlink.
	Mode    fs.FileMode
	Size    int64
	ModTime time.Time
	// Link is the target of a link.
	Link string
}

// EntryError says why an archive was refused. It is about the archive, never about the
// disk or the source that it was read from.
type EntryError struct {
	Archive string // Limits.Archive
	Name    string // of the entry, as the archive has it; "": it is about the whole archive
	Reason  string // one clause that reads on after the name
	Err     error  // the cause, if there is another
}

func (e *EntryError) Error() string {
	s := "archive"
	if e.Archive != "" {
		s += " " + e.Archive
	}
	if e.Name != "" {
		name := e.Name
		if len(name) > 200 {
			name = name[:200] + "…"
		}
		s += ": entry " + strconv.Quote(name)
	}
	return s + ": " + e.Reason
}

// Unwrap returns Err.
func (e *EntryError) Unwrap() error { return e.Err }

func refuse(name, format string, args ...any) error {
	return &EntryError{Name: name, Reason: fmt.Sprintf(format, args...)}
}

// Extract unpacks the archive that r holds into dir, a directory of root ("" or "." is root
// itself) that is made if it is not there. Whether r is tar, tar.gz or zip is told by its
// first bytes; a zip is first copied to a temporary file. Files that are there already are
// replaced like earlier entries. The position of r afterwards is not defined.
//
// Permission bits and times are kept; set-uid, set-gid, sticky bits and owners are not.
// The mode of dir itself is left alone. A refused archive is an *EntryError; what was
// unpacked before stays, so the caller removes dir. When ctx ends, Extract returns at the
// next chunk; it can't interrupt a Read of r that blocks.
func Extract(ctx context.Context, root *os.Root, dir string, r io.Reader, l Limits) (Stats, error) {
	if f, ok := r.(*os.File); ok {
		if z, size := zipFile(f); z != nil {
			return ExtractZip(ctx, root, dir, z, size, l)
		}
	}
	asGiven := l
	l = l.withDefaults(DefaultEntries)
	src := &stream.Reader{Ctx: ctx, R: r}
	br := bufio.NewReaderSize(src, 64<<10)
	head, err := br.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return Stats{}, explain(l, src, err)
	}
	switch {
	case len(head) == 0:
		err = refuse("", "it is empty")
	case len(head) >= 2 && string(head[:2]) == "\x1f\x8b":
		g := newGunzip(br)
		defer func() { _ = g.Close() }()
		return unpack(ctx, root, dir, l, src, func(t *tree) error { return t.tar(g) })
	case isZip(head):
		return spoolZip(ctx, root, dir, src, br, asGiven)
	default:
		return unpack(ctx, root, dir, l, src, func(t *tree) error { return t.tar(br) })
	}
	return Stats{}, explain(l, src, err)
}

func isZip(head []byte) bool {
	return string(head) == "PK\x03\x04" || string(head) == "PK\x05\x06"
}

// zipFile returns what is left of f if that is a zip in a file of its own, which need not
// be copied.
func zipFile(f *os.File) (io.ReaderAt, int64) {
	fi, err := f.Stat()
	if err != nil || !fi.Mode().IsRegular() {
		return nil, 0
	}
	at, err := f.Seek(0, io.SeekCurrent)
	var head [4]byte
	if err == nil {
		_, err = f.ReadAt(head[:], at)
	}
	if err != nil || !isZip(head[:]) {
		return nil, 0
	}
	return io.NewSectionReader(f, at, fi.Size()-at), fi.Size() - at
}

// ExtractZip is Extract for a zip that can be read in place.
func ExtractZip(ctx context.Context, root *os.Root, dir string, r io.ReaderAt, size int64, l Limits) (Stats, error) {
	l = l.withDefaults(DefaultZipEntries)
	z, err := OpenZip(r, size, l)
	if err != nil {
		return Stats{}, err
	}
	return unpack(ctx, root, dir, l, nil, func(t *tree) error { return t.zip(z) })
}

// unpack runs fill on a tree for dir and finishes the tree.
func unpack(ctx context.Context, root *os.Root, dir string, l Limits, src *stream.Reader, fill func(*tree) error) (Stats, error) {
	t, err := newTree(ctx, root, dir, l)
	if err != nil {
		return Stats{}, err
	}
	defer t.close()
	if err := fill(t); err != nil {
		return t.stats, explain(l, src, err)
	}
	if err := t.finish(); err != nil {
		return t.stats, explain(l, src, err)
	}
	return t.stats, nil
}

// explain turns what readers say into what the caller is told: failures of the source as
// they are, damage of the archive as an *EntryError.
func explain(l Limits, src *stream.Reader, err error) error {
	if src != nil && src.Err != nil {
		return fmt.Errorf("read archive: %w", src.Err)
	}
	var e *EntryError
	if !errors.As(err, &e) {
		return err
	}
	e.Archive = l.Archive
	return e
}
