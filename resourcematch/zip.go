package resourcematch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"unicode/utf8"

	"github.com/dewpoint-go/dewpoint/internal/tarfs"
)

// maxLink is the longest target of a symbolic link, as on Linux.
const maxLink = 4096

// openZip lists a zip. Of a path that occurs twice, the first counts, as with the unzip that
// Cloud Foundry runs. Sizes are charged elsewhere, in Cloud Foundry's words.
func openZip(r io.ReaderAt, size int64, entries int) ([]item, error) {
	z, err := tarfs.OpenZip(r, size, tarfs.Limits{Bytes: -1, Entries: entries, Links: tarfs.AnyLinks, RawNames: true})
	if err != nil {
		return nil, badZip(err)
	}
	items := make([]item, 0, len(z.Entries))
	seen := make(map[string]bool, len(z.Entries))
	for i := range z.Entries {
		e := &z.Entries[i]
		if e.Path == "." || seen[e.Path] {
			continue
		}
		if !utf8.ValidString(e.Path) || !utf8.ValidString(e.Link) {
			return nil, notUTF8(e.Path)
		}
		seen[e.Path] = true
		it := item{Entry: Entry{Fingerprint: Fingerprint{Path: e.Path, Mode: Mode(e.Mode.Perm())}}}
		switch {
		case e.Mode.IsDir():
			it.Dir = true
			it.Mode |= 0o700
		case e.Mode&fs.ModeSymlink != 0:
			it.Link = e.Link
		default:
			it.Size, it.open = e.Size, e.Open
		}
		items = append(items, it)
	}
	return items, nil
}

func notUTF8(name string) error {
	return &Error{Reason: BadFile, Path: name, Detail: "its name is not UTF-8; rename it"}
}

// badZip tells a refused archive from a failure to read it.
func badZip(err error) error {
	var e *tarfs.EntryError
	switch {
	case !errors.As(err, &e):
		return fmt.Errorf("read zip: %w", err)
	case e.Name != "":
		if _, ok := cleanPath(e.Name); !ok && utf8.ValidString(e.Name) {
			return &Error{Reason: BadPath, Path: e.Name, Detail: e.Reason, Err: err}
		}
	}
	return &Error{Reason: BadArchive, Path: e.Name, Detail: err.Error(), Err: err}
}

// readFailed tells damage of an archive from failures of a disk.
func readFailed(name string, err error) error {
	var e *tarfs.EntryError
	if errors.As(err, &e) {
		return badZip(err)
	}
	return fmt.Errorf("read %s: %w", name, err)
}

// startsLikeZip tells whether a file that can't be read as a zip was meant to be one.
func startsLikeZip(f *os.File) bool {
	head := make([]byte, 4)
	n, _ := f.ReadAt(head, 0)
	return n == len(head) && isZip(head)
}
