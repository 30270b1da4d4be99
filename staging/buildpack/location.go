package buildpack

import (
	"errors"
	"fmt"
	"net/url"
	"path"
	"strings"
)

type kind int

const (
	kindLocal kind = iota
	kindBlob
	kindZip
	kindGit
)

// location is where the bytes of a buildpack are.
type location struct {
	kind   kind
	path   string // kindLocal: of the file system; kindBlob: the key
	url    string // kindZip, kindGit: without fragment
	branch string // kindGit: a branch, tag or full commit
	sha256 string // kindZip: the digest that its URL demands, or ""
	shown  string // without a password
}

var errLocation = errors.New(`is neither "dir:PATH", "blob:KEY" nor the http, https, git or ssh URL of a zip or a git repository`)

func parseLocation(s string) (location, error) {
	if p, ok := strings.CutPrefix(s, "dir:"); ok && p != "" {
		return location{kind: kindLocal, path: p, shown: p}, nil
	}
	if k, ok := strings.CutPrefix(s, "blob:"); ok && k != "" {
		return location{kind: kindBlob, path: k, shown: s}, nil
	}
	return parseURL(s)
}

// parseURL reads what a user may give: nothing that names a file of this machine.
func parseURL(s string) (location, error) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || strings.HasPrefix(u.Host, "-") {
		return location{}, fmt.Errorf("location %q %w", redact(s), errLocation)
	}
	l := location{branch: u.Fragment, shown: u.Redacted()}
	u.Fragment, u.RawFragment = "", ""
	l.url = u.String()
	switch u.Scheme {
	case "http", "https":
		l.kind = kindGit
		if strings.EqualFold(path.Ext(u.Path), ".zip") {
			l.kind = kindZip
			return l, l.digest()
		}
	case "git", "ssh":
		l.kind = kindGit
	default:
		return location{}, fmt.Errorf("location %q %w", u.Redacted(), errLocation)
	}
	// It becomes an argument of git, which must not take it for an option.
	if strings.HasPrefix(l.branch, "-") {
		return location{}, fmt.Errorf("location %q: %q is not a branch or tag", l.shown, l.branch)
	}
	return l, nil
}

// digest reads the fragment of a zip's URL: a zip has no branch, but it may name its digest.
func (l *location) digest() error {
	ref := l.branch
	l.branch = ""
	sum, ok := strings.CutPrefix(ref, "sha256=")
	sum = strings.ToLower(sum)
	if ref != "" && (!ok || !sha256Hex.MatchString(sum)) {
		return fmt.Errorf("location %q: what stands behind \"#\" of a zip must be sha256= and 64 hex digits", l.shown)
	}
	l.sha256 = sum
	return nil
}

// redact drops the user information of what could not be read as a URL.
func redact(s string) string {
	if i := strings.LastIndexByte(s, '@'); i >= 0 {
		if j := strings.Index(s, "://"); j >= 0 && j < i {
			return s[:j+3] + "xxxxx" + s[i:]
		}
	}
	return s
}
