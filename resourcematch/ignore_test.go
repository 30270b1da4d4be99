package resourcematch

import (
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// ignoredBy judges a path as the walk does: directory after directory.
func ignoredBy(text, p string) bool {
	ig := newIgnores(text)
	dir := strings.HasSuffix(p, "/")
	p = strings.TrimSuffix(p, "/")
	var walk func(string, bool) verdict
	walk = func(p string, dir bool) verdict {
		if p == "." {
			return -1
		}
		return ig.judge(walk(path.Dir(p), true), p, dir)
	}
	return ig.ignored(walk(p, dir))
}

func TestIgnoreRules(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, rules string
		out, in     string // ignored and kept paths; a directory ends in "/"
	}{
		{"built in, at any depth", "", ".git/ .git/config .cfignore .DS_Store a/.DS_Store .gitignore .hg/x .svn/x _darcs/x manifest.yml manifest.yaml b/manifest.yml", "a .github/x .gitattributes manifest.json vars.yml"},
		{"built in, taken back", "!manifest.yml\n", "manifest.yaml", "manifest.yml a/manifest.yml"},
		{"plain name", "tmp", "tmp tmp/ a/tmp a/tmp/b/c", "tmpx xtmp a/tmp.txt"},
		{"comment and blank", "# a\n\n   \n\\#b", "#b", "a # x"},
		{"star", "*.log", "a.log b/a.log .log", "a.logs log"},
		{"star stays in a name", "/a*c", "ac abc abbc", "a/c ab/c x/ac"},
		{"question mark", "a?c", "abc a%c", "ac abbc"},
		{"question mark is a character", "a?c", "aéc", "a/c"},
		{"brackets", "[a-cx].txt", "a.txt c.txt x.txt", "d.txt ax.txt .txt"},
		{"brackets, not", "[!a-c].txt", "d.txt", "a.txt .txt"},
		{"brackets, caret", "[^a].txt", "d.txt", "a.txt"},
		{"bracket in brackets", "[]a].txt", "].txt a.txt", "b.txt"},
		{"classes", "[[:digit:][:upper:]x-z]\n/k[![:space:]]", "1 A y 7/q ka", "b é"},
		{"unknown class", "[[:no:]a]", "", "a n"},
		{"open bracket", "[a", "", "[a a"},
		{"minus at the end", "[a-].txt", "a.txt -.txt", "b.txt"},
		{"escaped star", `\*.txt`, "*.txt", "a.txt"},
		{"escaped bang", `\!a`, "!a", "a"},
		{"trailing backslash", `a\`, "", "a"},
		{"anchored", "/a", "a a/b", "b/a"},
		{"anchored by an inner slash", "a/b", "a/b a/b/c", "x/a/b b"},
		{"directory only", "build/", "build/ build/x x/build/", "build x/build"},
		{"anchored directory", "/build/", "build/x", "x/build/y"},
		{"leading stars", "**/a", "a x/a x/y/a x/a/b", "ax x/ya"},
		{"trailing stars", "a/**", "a/b a/b/c", "a a/ x/a/b"},
		{"inner stars", "a/**/z", "a/z a/b/z a/b/c/z", "a/zz x/a/z az"},
		{"three stars", "a/***/z", "a/z a/b/z", "a z"},
		{"two inner stars", "a/**/m/**/z", "a/m/z a/x/m/y/y/z a/m/m/z", "a/z a/m"},
		{"stars in a name", "a**b", "ab axb", "a/b"},
		{"only stars", "**", "a a/b", ""},
		{"one star", "*", "a a/b .x", ""},
		{"negation, last one wins", "*.log\n!keep.log\n", "a.log", "keep.log x/keep.log"},
		{"negation, and again", "*.log\n!keep.log\nkeep.log", "keep.log", ""},
		{"negation in an ignored directory", "vendor/\n!vendor/keep.txt", "vendor/a vendor/b/c", "vendor/keep.txt"},
		{"all but one", "/*\n!/src\n", "a b/c", "src/ src/a src/b/c"},
		{"all but one below", "/*\n!/src\n/src/*\n!/src/a", "src/b src/b/c", "src/a src/a/b"},
		{"trailing spaces", "a   \nb\\ \nc\t", "a c", "b"},
		{"trailing space kept", "b\\ ", "b\x20", "b"},
		{"windows line ends", "a\r\nb/\r\n", "a b/", "c"},
		{"byte order mark", "\ufeffa", "a", "b"},
		{"only a slash", "/\n//\n!", "", "a a/b"},
		{"case counts", "A", "A", "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			split := func(s string) []string {
				if strings.HasSuffix(s, "\x20") && len(s) == 2 {
					return []string{s}
				}
				return strings.Fields(s)
			}
			for _, p := range split(c.out) {
				assert.True(t, ignoredBy(c.rules, p), "%q should be ignored", p)
			}
			for _, p := range split(c.in) {
				assert.False(t, ignoredBy(c.rules, p), "%q should be kept", p)
			}
		})
	}
}

func FuzzIgnore(f *testing.F) {
	f.Add("a/**/b\n!*.[a-z]\\", "a/x/b")
	f.Add(strings.Repeat("*a", 50), strings.Repeat("a", 200))
	f.Add(strings.Repeat("**/a/", 50), strings.Repeat("a/", 60)+"b")
	f.Fuzz(func(t *testing.T, rules, p string) {
		if len(rules) > 1<<12 || len(p) > 1<<12 || strings.Contains(p, "//") {
			return
		}
		if p, ok := cleanPath(p); ok {
			ignoredBy(rules, p)
		}
	})
}
