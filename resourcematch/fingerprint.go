package resourcematch

import (
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Mode holds the permission bits of a file, at most 0777. In JSON it is a string of octal
// digits, as Cloud Foundry's API has it. The zero Mode means that it is not known; a file
// without a mode never matches.
type Mode uint16

// DefaultMode is what a file gets whose mode is not known, as in Cloud Foundry.
const DefaultMode Mode = 0o744

// ParseMode reads octal digits such as "644" or "0644"; higher bits than the permissions
// are dropped. "" is the unknown mode.
func ParseMode(s string) (Mode, error) {
	if s == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(s, 8, 32)
	if err != nil {
		return 0, fmt.Errorf("file mode %q: write octal digits, such as 644", s)
	}
	return Mode(n & 0o777), nil
}

// Perm returns the mode as package fs has it.
func (m Mode) Perm() fs.FileMode { return fs.FileMode(m) & fs.ModePerm }

// String returns octal digits, "0644".
func (m Mode) String() string { return fmt.Sprintf("%#o", uint16(m)) }

// MarshalText returns octal digits, and nothing for an unknown mode.
func (m Mode) MarshalText() ([]byte, error) {
	if m == 0 {
		return nil, nil
	}
	return strconv.AppendUint([]byte{'0'}, uint64(m), 8), nil
}

// UnmarshalText reads what ParseMode reads.
func (m *Mode) UnmarshalText(b []byte) error {
	v, err := ParseMode(string(b))
	*m = v
	return err
}

// Fingerprint tells one file's content from another's. Path and Mode are not part of what
// is compared; they say where the content belongs.
type Fingerprint struct {
	// Path is relative to the app's root, with "/" between its parts.
	Path string `json:"path"`
	// SHA1 is 40 hex digits; whatever else stands there is simply not known.
	SHA1 string `json:"sha1"`
	// SHA256 is 64 hex digits, or "".
	SHA256 string `json:"sha256,omitempty"`
	Size   int64  `json:"size"` // bytes
	Mode   Mode   `json:"mode,omitempty"`
}

// Entry is one thing in an app: a directory, a symbolic link (Link is not empty) or a
// regular file.
type Entry struct {
	Fingerprint
	Dir bool `json:"dir,omitempty"`
	// Link is where a symbolic link points, as it was written.
	Link string `json:"link,omitempty"`
}

// Regular tells whether e is a regular file.
func (e *Entry) Regular() bool { return !e.Dir && e.Link == "" }

// maxPath is the longest path, as on Linux.
const maxPath = 4096

// cleanPath returns p in its shortest form and whether it is a name below the root.
func cleanPath(p string) (string, bool) {
	if p == "" || strings.HasPrefix(p, "/") || strings.ContainsRune(p, 0) || !utf8.ValidString(p) {
		return p, false
	}
	c := path.Clean(p)
	return c, c != "." && len(c) <= maxPath && fs.ValidPath(c)
}
