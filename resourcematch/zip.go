package resourcematch

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"unicode/utf8"

	"github.com/klauspost/compress/zip"
)

// maxLink is the longest target of a symbolic link, as on Linux.
const maxLink = 4096

// openZip opens an uploaded zip.
func openZip(r io.ReaderAt, size int64) ([]item, error) {
	z, err := zip.NewReader(r, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) {
		return nil, badZip("", err)
	}
	return zipItems(z)
}

// zipItems lists a zip. Paths and sizes are checked, content when it is read. Of a path
// that occurs twice, the first counts, as with the unzip that Cloud Foundry runs.
func zipItems(z *zip.Reader) ([]item, error) {
	items := make([]item, 0, len(z.File))
	seen := make(map[string]bool, len(z.File))
	for _, f := range z.File {
		it, err := zipItem(f)
		if err != nil {
			return nil, err
		}
		if it.Path == "." || seen[it.Path] {
			continue
		}
		seen[it.Path] = true
		items = append(items, it)
	}
	return items, nil
}

func zipItem(f *zip.File) (item, error) {
	it := item{Entry: Entry{Dir: strings.HasSuffix(f.Name, "/")}}
	if !utf8.ValidString(f.Name) {
		return it, &Error{Reason: BadFile, Path: f.Name, Detail: "its name is not UTF-8; rename it"}
	}
	var ok bool
	if it.Path, ok = cleanPath(f.Name); !ok {
		if it.Path == "." {
			return it, nil
		}
		return it, &Error{Reason: BadPath, Path: f.Name}
	}
	m := f.Mode()
	it.Mode = Mode(m.Perm())
	switch {
	case it.Dir || m.IsDir():
		it.Dir = true
		it.Mode |= 0o700
	case m&fs.ModeSymlink != 0:
		var err error
		if it.Link, err = zipLink(f); err != nil {
			return it, err
		}
		it.Mode = 0o777
	case !m.IsRegular():
		return it, &Error{Reason: BadFile, Path: f.Name, Detail: "it is " + kindOf(m)}
	case f.UncompressedSize64 > 1<<62:
		return it, badZip(f.Name, errors.New("its size is impossible"))
	default:
		it.Size = int64(f.UncompressedSize64)
		if it.Mode == 0 || f.CreatorVersion>>8 != 3 && f.CreatorVersion>>8 != 19 {
			it.Mode = DefaultMode // made where files have no modes
		}
		it.open = func() (io.ReadCloser, error) {
			r, err := f.Open()
			if err != nil {
				return nil, badZip(f.Name, err)
			}
			return r, nil
		}
	}
	return it, nil
}

func zipLink(f *zip.File) (string, error) {
	r, err := f.Open()
	if err != nil {
		return "", badZip(f.Name, err)
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxLink+1))
	if err != nil {
		return "", badZip(f.Name, err)
	}
	if len(b) == 0 || len(b) > maxLink || !utf8.Valid(b) || strings.ContainsRune(string(b), 0) {
		return "", badZip(f.Name, errors.New("the target of the link is impossible"))
	}
	return string(b), nil
}

func badZip(name string, err error) error {
	detail := strings.TrimPrefix(err.Error(), "zip: ")
	if name != "" {
		detail = fmt.Sprintf("%s: %q", detail, name)
	}
	return &Error{Reason: BadArchive, Path: name, Detail: detail, Err: err}
}

// readFailed tells damage of an archive from failures of a disk.
func readFailed(name string, err error) error {
	for _, damage := range []error{zip.ErrChecksum, zip.ErrFormat, zip.ErrAlgorithm, io.ErrUnexpectedEOF} {
		if errors.Is(err, damage) {
			return badZip(name, err)
		}
	}
	if s := err.Error(); strings.HasPrefix(s, "flate:") {
		return badZip(name, err)
	}
	return fmt.Errorf("read %s: %w", name, err)
}
