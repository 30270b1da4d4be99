package resourcematch

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// The kinds of blobs in the catalog.
const (
	KindFiles   = "files"   // files of an upload, one after the other
	KindPackage = "package" // a manifest
)

// Manifest is what a package consists of. As JSON it is the blob that a package is known by.
type Manifest struct {
	// Version of this form; 1.
	Version int `json:"version"`
	// SHA256 is Sum of the entries.
	SHA256 string `json:"sha256"`
	// Blobs hold the files' contents, those of this upload and of earlier ones.
	Blobs []string `json:"blobs,omitempty"`
	// Entries are in the order of their paths' bytes.
	Entries []Part `json:"entries"`
}

// Part is one thing in a package and where its content is: Size bytes from Offset in the
// blob that Blob is the index of.
type Part struct {
	Entry
	Blob   int   `json:"blob,omitempty"`
	Offset int64 `json:"offset,omitempty"`
}

// stored tells whether p has content in a blob.
func (p *Part) stored() bool { return p.Regular() && p.Size > 0 }

// write writes m as JSON, entry by entry: of a large package the whole text is much to hold.
func (m *Manifest) write(w io.Writer) error {
	head := *m
	head.Entries = []Part{}
	text, err := json.Marshal(head)
	if err != nil {
		return err
	}
	bw := bufio.NewWriterSize(w, 64<<10)
	tail := len("]}")               // Entries is the last field
	bw.Write(text[:len(text)-tail]) //nolint:errcheck // Flush tells
	for i := range m.Entries {
		if i > 0 {
			bw.WriteByte(',') //nolint:errcheck // as above
		}
		e, err := json.Marshal(&m.Entries[i])
		if err != nil {
			return err
		}
		bw.Write(e) //nolint:errcheck // as above
	}
	bw.Write(text[len(text)-tail:]) //nolint:errcheck // as above
	return bw.Flush()
}

// Sum returns the package's SHA-256, 64 hex digits: that of a listing with one line for each
// entry in the order of paths, which is
//
//	dir MODE "PATH"
//	link "PATH" "TARGET"
//	file MODE SHA256 "PATH"
//
// with octal modes ("0644") and with paths quoted as strconv.Quote does. So it depends on
// paths, modes and content alone.
func (m *Manifest) Sum() string {
	h := sha256.New()
	w := bufio.NewWriterSize(h, 32<<10)
	var line []byte
	for i := range m.Entries {
		e := &m.Entries[i]
		line = line[:0]
		switch {
		case e.Dir:
			line = append(line, "dir "+e.Mode.String()+" "...)
			line = strconv.AppendQuote(line, e.Path)
		case e.Link != "":
			line = strconv.AppendQuote(append(line, "link "...), e.Path)
			line = strconv.AppendQuote(append(line, ' '), e.Link)
		default:
			line = append(line, "file "+e.Mode.String()+" "+e.SHA256+" "...)
			line = strconv.AppendQuote(line, e.Path)
		}
		w.Write(append(line, '\n')) //nolint:errcheck // a hash doesn't fail
	}
	w.Flush() //nolint:errcheck // as above
	return hex.EncodeToString(h.Sum(nil))
}

// Files returns the number of regular files, and Size the sum of their sizes in bytes.
func (m *Manifest) Files() (n int) {
	for i := range m.Entries {
		if m.Entries[i].Regular() {
			n++
		}
	}
	return n
}

// Size returns the sum of the files' sizes in bytes.
func (m *Manifest) Size() (n int64) {
	for i := range m.Entries {
		n += m.Entries[i].Size
	}
	return n
}

var errDamaged = errors.New("the manifest is damaged")

// readManifest reads what Assemble wrote. It trusts it no further than its paths.
func readManifest(r io.Reader) (*Manifest, error) {
	src := &remember{r: r}
	m := &Manifest{}
	err := json.NewDecoder(src).Decode(m)
	switch {
	case src.err != nil:
		return nil, src.err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	case m.Version != 1:
		return nil, fmt.Errorf("version %d of the manifest is not known; it was made by a newer release", m.Version)
	}
	for i := range m.Entries {
		p := &m.Entries[i]
		if c, ok := cleanPath(p.Path); !ok || c != p.Path || p.Size < 0 || p.Offset < 0 || p.Blob < 0 || p.stored() && p.Blob >= len(m.Blobs) {
			return nil, fmt.Errorf("%w: entry %q is impossible", errDamaged, p.Path)
		}
	}
	if m.Sum() != m.SHA256 {
		return nil, fmt.Errorf("%w: its digest is not that of its entries", errDamaged)
	}
	return m, nil
}

// remember keeps the failure of a reader apart from what its bytes are.
type remember struct {
	r   io.Reader
	err error
}

func (r *remember) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF { //nolint:errorlint // a wrapped EOF is a reader that broke
		r.err = err
	}
	return n, err
}

// arrange sorts parts and refuses a thing that stands in another's way: a file or link in
// the place of a directory.
func arrange(parts []Part) error {
	slices.SortFunc(parts, func(a, b Part) int { return strings.Compare(a.Path, b.Path) })
	flat := make(map[string]bool, len(parts))
	for i := range parts {
		if !parts[i].Dir {
			flat[parts[i].Path] = true
		}
	}
	for i := range parts {
		p := parts[i].Path
		for j := strings.LastIndexByte(p, '/'); j > 0; j = strings.LastIndexByte(p[:j], '/') {
			if flat[p[:j]] {
				return &Error{Reason: BadPath, Path: p, Detail: strconv.Quote(p[:j]) + " is no directory"}
			}
		}
	}
	return nil
}
