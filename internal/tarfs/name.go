package tarfs

import (
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"unicode/utf8"
)

// What a name may be: the limits of Linux, and a depth that keeps the directories which are
// open at one time few.
const (
	MaxName  = 4096 // bytes
	MaxDepth = 256  // parts
	maxPart  = 255  // bytes of one part
)

// clean checks a name of an archive and returns it without "./", doubled slashes and the
// slash at its end. "." is the tree itself.
func clean(name string, l Limits) (string, error) {
	switch {
	case name == "":
		return "", refuse(name, "its name is empty")
	case strings.IndexByte(name, 0) >= 0:
		return "", refuse(name, "its name holds a NUL byte")
	case len(name) > MaxName:
		return "", refuse(name, "its name is longer than %d bytes", MaxName)
	case name[0] == '/':
		return "", refuse(name, "its name is absolute; names must be relative to the archive")
	}
	if !l.RawNames || runtime.GOOS == "windows" {
		if !utf8.ValidString(name) {
			return "", refuse(name, "its name is not UTF-8")
		}
		if strings.IndexByte(name, '\\') >= 0 {
			return "", refuse(name, `its name holds a backslash; archives separate folders by "/"`)
		}
	}
	depth := 0
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return "", refuse(name, `its name holds ".."`)
		case len(part) > maxPart:
			return "", refuse(name, "a part of its name is longer than %d bytes", maxPart)
		}
		if depth++; depth > MaxDepth {
			return "", refuse(name, "it lies more than %d folders deep", MaxDepth)
		}
	}
	name = path.Clean(name)
	if runtime.GOOS == "windows" && !filepath.IsLocal(filepath.FromSlash(name)) {
		return "", refuse(name, "Windows does not allow its name")
	}
	return name, nil
}

// checkLink judges the target of a symbolic link. check tells that its text alone does not
// decide: it goes up again after it went down, perhaps through another link.
func checkLink(name, clean, target string, rule Links) (check bool, err error) {
	switch {
	case rule == NoLinks:
		return false, refuse(name, "it is a symbolic link, which is not allowed here")
	case target == "":
		return false, refuse(name, "it is a symbolic link to nothing")
	case strings.IndexByte(target, 0) >= 0 || len(target) > MaxName:
		return false, refuse(name, "it is a symbolic link with an impossible target")
	case rule == AnyLinks:
		return false, nil
	case target[0] == '/' || filepath.VolumeName(target) != "":
		return false, refuse(name, "it is a symbolic link to the absolute path %q", target)
	case runtime.GOOS == "windows" && strings.IndexByte(target, '\\') >= 0:
		return false, refuse(name, "it is a symbolic link to %q, with a backslash", target)
	}
	depth := strings.Count(clean, "/")
	down := false
	for part := range strings.SplitSeq(target, "/") {
		switch part {
		case "", ".":
		case "..":
			if depth--; depth < 0 {
				return false, refuse(name, "it is a symbolic link to %q, out of the archive", target)
			}
			check = check || down
		default:
			depth++
			down = true
		}
	}
	return check, nil
}
