package resourcematch

import (
	"path"
	"strings"
	"unicode/utf8"
)

// builtinIgnores is what Cloud Foundry's CLI never uploads, at any depth, unless .cfignore
// takes it back with "!" (cloudfoundry/cli, actor/sharedaction/resource.go).
const builtinIgnores = ".cfignore\n.DS_Store\n.git\n.gitignore\n.hg\n.svn\n_darcs\nmanifest.yaml\nmanifest.yml\n"

// ignores are rules in the syntax of .gitignore. The last rule that matches a path or a
// directory above it decides. As in Cloud Foundry, and unlike in git, "!" can so bring
// back what lies in an ignored directory.
type ignores struct {
	rules    []rule
	lastKeep int // index of the last rule with "!", or -1
}

type rule struct {
	keep    bool // "!"
	dirOnly bool
	// anchored: the segments stand for the whole path; else one stands for a name at any depth.
	anchored bool
	segs     []segment
}

type segment struct {
	text string
	any  bool // "**": any number of directories
	glob bool // text is a pattern, else a plain name
}

// newIgnores reads the built-in rules and then the text of a .cfignore. Every text is valid.
func newIgnores(text string) *ignores {
	ig := &ignores{lastKeep: -1}
	text = strings.TrimPrefix(text, "\ufeff")
	for line := range strings.SplitSeq(builtinIgnores+text, "\n") {
		r, ok := parseRule(strings.TrimSuffix(line, "\r"))
		if !ok {
			continue
		}
		if r.keep {
			ig.lastKeep = len(ig.rules)
		}
		ig.rules = append(ig.rules, r)
	}
	return ig
}

func parseRule(line string) (r rule, ok bool) {
	line = trimSpaces(line)
	if line == "" || line[0] == '#' {
		return r, false
	}
	if line[0] == '!' {
		r.keep, line = true, line[1:]
	}
	if strings.HasSuffix(line, "/") {
		r.dirOnly, line = true, strings.TrimRight(line, "/")
	}
	if r.anchored = strings.Contains(line, "/"); r.anchored {
		line = strings.TrimPrefix(line, "/")
	}
	if line == "" {
		return r, false
	}
	for s := range strings.SplitSeq(line, "/") {
		if len(s) > 1 && strings.Trim(s, "*") == "" { // more than two are as two
			if n := len(r.segs); n == 0 || !r.segs[n-1].any { // two in a row mean no more, and cost much
				r.segs = append(r.segs, segment{any: true})
			}
			continue
		}
		seg := segment{text: s, glob: strings.ContainsAny(s, `*?[\`)}
		r.segs = append(r.segs, seg)
	}
	if len(r.segs) == 1 && r.segs[0].any {
		r.segs[0], r.anchored = segment{text: "*", glob: true}, false
	}
	return r, true
}

// trimSpaces removes spaces at the end that no backslash protects.
func trimSpaces(s string) string {
	for strings.HasSuffix(s, " ") || strings.HasSuffix(s, "\t") {
		t := s[:len(s)-1]
		slashes := len(t) - len(strings.TrimRight(t, `\`))
		if slashes%2 == 1 {
			break
		}
		s = t
	}
	return s
}

// verdict is the index of the rule that decides, or -1.
type verdict int

func (ig *ignores) ignored(v verdict) bool { return v >= 0 && !ig.rules[v].keep }

// prune tells whether nothing in a directory can be wanted.
func (ig *ignores) prune(v verdict) bool { return ig.ignored(v) && int(v) > ig.lastKeep }

// judge finds the rule for a path, given that of its directory (-1 at the root).
func (ig *ignores) judge(above verdict, p string, dir bool) verdict {
	var parts []string
	base := path.Base(p)
	for i := len(ig.rules) - 1; i > int(above); i-- {
		r := &ig.rules[i]
		if r.dirOnly && !dir {
			continue
		}
		if !r.anchored {
			if r.segs[0].matches(base) {
				return verdict(i)
			}
			continue
		}
		if parts == nil {
			parts = strings.Split(p, "/")
		}
		if matchSegments(r.segs, parts) {
			return verdict(i)
		}
	}
	return above
}

func (s *segment) matches(name string) bool {
	if !s.glob {
		return s.text == name
	}
	return matchGlob(s.text, name)
}

// matchSegments goes back to the newest "**" only, which is enough and stays quadratic.
func matchSegments(segs []segment, parts []string) bool {
	si, pi, backS, backP := 0, 0, -1, 0
	for pi < len(parts) {
		switch {
		case si < len(segs) && segs[si].any:
			if si == len(segs)-1 { // "a/**": all that is in a, not a itself
				return true
			}
			backS, backP = si, pi
			si++
			continue
		case si < len(segs) && segs[si].matches(parts[pi]):
			si++
			pi++
			continue
		}
		if backS < 0 {
			return false
		}
		backP++
		si, pi = backS+1, backP
	}
	return si == len(segs)
}

// matchGlob knows *, ?, [a-z], [!a], [[:digit:]] and backslash. A bracket that isn't closed matches nothing.
func matchGlob(pat, name string) bool {
	p, n, backP, backN := 0, 0, -1, 0
	for n < len(name) {
		if p < len(pat) && pat[p] == '*' {
			backP, backN = p, n
			p++
			continue
		}
		if p < len(pat) {
			c, w := utf8.DecodeRuneInString(name[n:])
			if used, ok := matchOne(pat[p:], c); ok {
				p, n = p+used, n+w
				continue
			}
		}
		if backP < 0 {
			return false
		}
		_, w := utf8.DecodeRuneInString(name[backN:])
		backN += w
		p, n = backP+1, backN
	}
	for p < len(pat) && pat[p] == '*' {
		p++
	}
	return p == len(pat)
}

// matchOne holds one character against the beginning of a pattern, and returns how much of
// the pattern that was.
func matchOne(pat string, c rune) (used int, ok bool) {
	switch pat[0] {
	case '?':
		return 1, true
	case '[':
		return matchClass(pat, c)
	case '\\':
		if len(pat) == 1 {
			return 1, false
		}
		r, w := utf8.DecodeRuneInString(pat[1:])
		return 1 + w, r == c
	}
	r, w := utf8.DecodeRuneInString(pat)
	return w, r == c
}

// classes are those of POSIX, which know ASCII only.
var classes = map[string]func(rune) bool{
	"alpha":  func(c rune) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' },
	"digit":  func(c rune) bool { return c >= '0' && c <= '9' },
	"alnum":  func(c rune) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' },
	"upper":  func(c rune) bool { return c >= 'A' && c <= 'Z' },
	"lower":  func(c rune) bool { return c >= 'a' && c <= 'z' },
	"xdigit": func(c rune) bool { return c|0x20 >= 'a' && c|0x20 <= 'f' || c >= '0' && c <= '9' },
	"space":  func(c rune) bool { return c == ' ' || c >= '\t' && c <= '\r' },
	"blank":  func(c rune) bool { return c == ' ' || c == '\t' },
	"punct": func(c rune) bool {
		return c > ' ' && c < 0x7f && !(c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9')
	},
	"print": func(c rune) bool { return c >= ' ' && c < 0x7f },
	"graph": func(c rune) bool { return c > ' ' && c < 0x7f },
	"cntrl": func(c rune) bool { return c < ' ' || c == 0x7f },
}

func matchClass(pat string, c rune) (used int, ok bool) {
	i := 1
	not := i < len(pat) && (pat[i] == '!' || pat[i] == '^')
	if not {
		i++
	}
	next := func() (rune, bool) {
		if i < len(pat) && pat[i] == '\\' {
			i++
		}
		if i >= len(pat) {
			return 0, false
		}
		r, w := utf8.DecodeRuneInString(pat[i:])
		i += w
		return r, true
	}
	hit := false
	for first := true; ; first = false {
		if i < len(pat) && pat[i] == ']' && !first {
			return i + 1, hit != not
		}
		if strings.HasPrefix(pat[i:], "[:") {
			if name, _, ok := strings.Cut(pat[i+2:], ":]"); ok {
				in, known := classes[name]
				if !known {
					return len(pat), false
				}
				hit = hit || in(c)
				i += len(name) + 4
				continue
			}
		}
		lo, ok := next()
		if !ok {
			return len(pat), false
		}
		hi := lo
		if i+1 < len(pat) && pat[i] == '-' && pat[i+1] != ']' {
			i++
			if hi, ok = next(); !ok {
				return len(pat), false
			}
		}
		hit = hit || lo <= c && c <= hi
	}
}
