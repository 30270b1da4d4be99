package dewpoint_test

import (
	"bufio"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "github.com/dewpoint-go/dewpoint"

// floors holds the building: a package may import only packages of lower floors (and
// those below its own folder's noun: a driver its seam). Longest prefix wins.
var floors = map[string]int{
	"examples": 7,
	"cfapi":    6,
	".":        5, "internal/sim": 5,
	"scheduler": 4, "staging/buildpack": 4, "staging/image": 4, "staging/cnb": 4,
	"lifecycle/cmd": 5, "cell/local": 5, "cell/process": 4, "cell/sandbox": 4, "cell/containerd": 4, "cell/remote": 4,
	"lrp": 3, "staging": 3,
	"cell": 2, "resourcematch": 2, "internal/uplink": 2,
	"blob/catalog": 1, "blob/cloudblob": 1, "lifecycle": 1, "droplet/oci": 1, "state/sqlite": 1,
	"blob": 0, "state": 0, "droplet": 0, "logs": 0, "router": 0,
	"internal": 0,
}

// heavy lists modules that only the named leaf packages may link.
var heavy = map[string][]string{
	"gocloud.dev":                            {"blob/cloudblob"},
	"modernc.org/sqlite":                     {"state/sqlite"},
	"github.com/containerd":                  {"cell/containerd"},
	"github.com/vishvananda":                 {"cell/containerd"},
	"github.com/google/nftables":             {"cell/containerd"},
	"github.com/containernetworking":         {"cell/containerd"},
	"gvisor.dev":                             {"internal/uplink"},
	"github.com/google/go-containerregistry": {"staging/image", "droplet/oci"},
	"github.com/stretchr":                    nil,
	"go.uber.org/goleak":                     nil,
}

func floorOf(pkg string) (int, bool) {
	for p := pkg; ; p = path.Dir(p) {
		if f, ok := floors[p]; ok && (p != "." || pkg == ".") {
			return f, true
		}
		if p == "." {
			return 0, false
		}
	}
}

// isSuite tells a conformance suite (blob/blobtest, …), which stands with its seam's floor.
func isSuite(pkg string) bool { return strings.HasSuffix(pkg, "test") }

type source struct {
	pkg, file string
	test      bool
	ast       *ast.File
	lines     int
}

func sources(t *testing.T) []source {
	t.Helper()
	var all []source
	err := filepath.WalkDir(".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			name := d.Name()
			if p != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "tools") {
				return fs.SkipDir
			}
			if p != "." {
				if _, err := os.Stat(filepath.Join(p, "go.mod")); err == nil {
					return fs.SkipDir
				}
			}
			if p == filepath.Join("examples", "apps") || p == filepath.Join("examples", "buildpacks") {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(p, ".go") {
			return nil
		}
		f, err := parser.ParseFile(token.NewFileSet(), p, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		all = append(all, source{
			pkg: filepath.ToSlash(filepath.Dir(p)), file: filepath.ToSlash(p),
			test: strings.HasSuffix(p, "_test.go"), ast: f, lines: countLines(t, p),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func countLines(t *testing.T, file string) int {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	n := 0
	for sc := bufio.NewScanner(f); sc.Scan(); {
		n++
	}
	return n
}

func TestImportsObeyTheFloors(t *testing.T) {
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		mine, ok := floorOf(s.pkg)
		if !ok {
			t.Errorf("%s: package %q has no floor; give it one in repo_test.go and in docs/architecture.md", s.file, s.pkg)
			continue
		}
		for _, im := range s.ast.Imports {
			p := strings.Trim(im.Path.Value, `"`)
			if p == module {
				p = module + "/."
			}
			rel, ours := strings.CutPrefix(p, module+"/")
			if !ours {
				for prefix, allowed := range heavy {
					if strings.HasPrefix(p, prefix) && !contains(allowed, s.pkg) && !strings.HasPrefix(s.pkg, "examples/") {
						t.Errorf("%s imports %s, which belongs in %v only", s.file, p, allowed)
					}
				}
				continue
			}
			theirs, _ := floorOf(rel)
			switch {
			case isSuite(s.pkg), strings.HasPrefix(rel, "internal/"), strings.Contains(rel, "/internal/"), rel == s.pkg:
			case strings.HasPrefix(s.pkg, rel+"/"): // a part of the same noun may use the noun
			case isSuite(rel):
				t.Errorf("%s imports %s: a suite is for tests only", s.file, rel)
			case strings.HasPrefix(s.pkg, "internal/") && theirs > 0 && mine == 0:
				t.Errorf("%s imports %s: internal packages stand on floor 0", s.file, rel)
			case theirs >= mine:
				t.Errorf("%s (floor %d) imports %s (floor %d): imports go down only", s.file, mine, rel, theirs)
			}
		}
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

func TestEveryPackageHasADocComment(t *testing.T) {
	doc := map[string]bool{}
	for _, s := range sources(t) {
		if s.test {
			continue
		}
		doc[s.pkg] = doc[s.pkg] || s.ast.Doc != nil
	}
	for pkg, ok := range doc {
		if !ok {
			t.Errorf("package %s has no doc comment", pkg)
		}
	}
}

func TestNoFileIsTooLong(t *testing.T) {
	for _, s := range sources(t) {
		if s.lines > 600 {
			t.Errorf("%s has %d lines; 600 is the most, 400 is the aim", s.file, s.lines)
		}
	}
}

func TestNoSleepInTests(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test && !isSuite(s.pkg) {
			continue
		}
		ast.Inspect(s.ast, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok || sel.Sel.Name != "Sleep" {
				return true
			}
			if id, ok := sel.X.(*ast.Ident); ok && id.Name == "time" && !inSynctest(s) {
				t.Errorf("%s sleeps; wait for a signal, or use testing/synctest", s.file)
			}
			return true
		})
	}
}

// inSynctest allows a sleep of the fake clock.
func inSynctest(s source) bool {
	for _, im := range s.ast.Imports {
		if im.Path.Value == `"testing/synctest"` {
			return true
		}
	}
	return false
}

// TestEverySeamHasASuite holds that each interface with a suite of its own is named there.
func TestEverySeamHasASuite(t *testing.T) {
	seams := map[string][]string{ // suite folder → seams
		"blob/blobtest":           {"Store"},
		"state/statetest":         {"Journal"},
		"logs/logstest":           {"Store"},
		"cell/celltest":           {"Runtime", "Cell", "Execer", "WorkExecer"},
		"lrp/lrptest":             {"Scheduler", "Restarter", "Execer", "Runner"},
		"scheduler/schedulertest": {"Policy"},
		"router/routertest":       {"Router"},
		"staging/stagingtest":     {"BuildpackRunner", "ImageFetcher"},
	}
	for dir, names := range seams {
		files, err := filepath.Glob(filepath.Join(filepath.FromSlash(dir), "*.go"))
		if err != nil || len(files) == 0 {
			t.Errorf("suite %s does not exist", dir)
			continue
		}
		var text strings.Builder
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			text.Write(b)
		}
		for _, n := range names {
			if !regexp.MustCompile(`\b` + n + `\b`).MatchString(text.String()) {
				t.Errorf("suite %s does not name %s", dir, n)
			}
		}
	}
}
