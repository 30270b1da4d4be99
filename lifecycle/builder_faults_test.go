//go:build unix

package lifecycle_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// script puts a buildpack of scripts in, which need no fixture of their own.
func (s *staging) script(key string, scripts map[string]string) {
	s.t.Helper()
	for name, text := range scripts {
		file := "buildpacks/" + xxh(key) + "/bin/" + name
		s.write(file, "#!/bin/sh\n"+text)
		require.NoError(s.t, os.Chmod(s.path(file), 0o755))
	}
}

const releases = "printf 'default_process_types: {web: w}'\n"

// What took part is told of a failure, and nothing else.
func TestBuilderResultOfFailures(t *testing.T) {
	t.Parallel()
	const form = `{"lifecycle_metadata":{"buildpack_key":%q,"detected_buildpack":%q,"buildpacks":[%s]},` +
		`"process_types":{},"processes":[],"execution_metadata":"","lifecycle_type":"buildpack"}`
	for name, c := range map[string]struct {
		code  int
		named bool
		order []string
		app   string // a Procfile
		want  string
	}{
		"detect":        {222, false, []string{"always-fails-detect"}, "", fmt.Sprintf(form, "", "", "")},
		"compile":       {223, false, []string{"fails-compile"}, "", fmt.Sprintf(form, "fails-compile", "Failing", `{"key":"fails-compile","name":"Failing"}`)},
		"release":       {224, false, []string{"fails-release"}, "", fmt.Sprintf(form, "fails-release", "R", `{"key":"fails-release","name":"R"}`)},
		"supply":        {225, true, []string{"has-supply", "fails-supply", "always-detects"}, "", fmt.Sprintf(form, "fails-supply", "", `{"key":"has-supply","name":""},{"key":"fails-supply","name":""}`)},
		"no supply":     {225, true, []string{"always-detects", "always-detects#2"}, "", fmt.Sprintf(form, "", "", "")},
		"finalize":      {223, true, []string{"has-supply", "fails-finalize"}, "", fmt.Sprintf(form, "fails-finalize", "Fails", `{"key":"has-supply","name":""},{"key":"fails-finalize","name":"Fails","version":"1.0"}`)},
		"bad Procfile":  {1, false, []string{"always-detects"}, "web: [a", fmt.Sprintf(form, "always-detects", "Always Matching", `{"key":"always-detects","name":"Always Matching"}`)},
		"no launch.yml": {1, true, []string{"from-app"}, "", fmt.Sprintf(form, "from-app", "", `{"key":"from-app","name":""}`)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStaging(t, map[string]string{"app/launch-0.yml": "processes: {"})
			if c.app != "" {
				s.write("app/Procfile", c.app)
			}
			if c.named {
				s.args = []string{"-skipDetect"}
			}
			s.run(c.code, c.order...)
			b, err := os.ReadFile(s.path("out/result.json"))
			require.NoError(t, err)
			assert.JSONEq(t, c.want, string(b))
			assert.NoFileExists(t, s.path("out/droplet"))
			assert.NoFileExists(t, s.path("out/cache"))
		})
	}
}

// A droplet that cannot be written is a failure of which result.json tells, too.
func TestBuilderTellsOfADropletThatFails(t *testing.T) {
	t.Parallel()
	s := newStaging(t, map[string]string{"out/droplet/is": "a folder"})
	s.run(1, "always-detects")
	assert.Equal(t, "always-detects", s.result().Lifecycle.Key)
	assert.Empty(t, s.result().Processes)
}

// Names that a bin/detect prints are shown and kept: they must be text, and short.
func TestBuilderDetectedNames(t *testing.T) {
	t.Parallel()
	for print, want := range map[string]string{
		`printf '  Two\nlines \n\n'`:              "Two\nlines",
		`printf '\000\001bin\377ary\033[31m\n'`:   "binary[31m",
		`head -c 3000000 /dev/zero | tr '\000' a`: strings.Repeat("a", 255),
		`true`: "",
	} {
		s := newStaging(t, nil)
		s.script("d", map[string]string{"detect": print, "compile": "", "release": releases})
		s.run(0, "d")
		assert.Equal(t, want, s.result().Lifecycle.Detected, print)
	}
}

// A child that a script leaves behind may hold its output: what the script said before it
// ended is all there, and nobody waits for the child.
func TestBuilderDoesNotWaitForChildren(t *testing.T) {
	t.Parallel()
	s := newStaging(t, nil)
	s.script("d", map[string]string{
		"detect":  "sleep 600 2>/dev/null & echo $! >\"$1/pid\"; head -c 40000 /dev/zero | tr '\\000' ' '; echo Late",
		"compile": "", "release": "sleep 600 2>/dev/null & echo $! >>\"$1/pid\"\n" + releases,
	})
	s.run(0, "d")
	assert.Equal(t, "w", s.result().Processes[0].Command)
	for pid := range strings.FieldsSeq(s.archive("out/droplet")["./app/pid"]) {
		p := 0
		_, err := fmt.Sscan(pid, &p)
		require.NoError(t, err)
		proc, err := os.FindProcess(p)
		require.NoError(t, err)
		require.NoError(t, proc.Kill()) // it was there to the end
	}
}

func TestBuilderRefusesTooMuch(t *testing.T) {
	t.Parallel()
	s := newStaging(t, nil)
	s.script("d", map[string]string{"detect": "echo D", "compile": "", "release": "head -c 3000000 /dev/zero | tr '\\000' '#'"})
	s.run(224, "d")
	assert.Contains(t, s.stderr.String(), "release output invalid: it is 1 MiB or more")

	s = named(t, nil)
	s.script("d", map[string]string{
		"supply":   "{ printf 'name: D\\noutput_metadata: {x: '; head -c 60000 /dev/zero | tr '\\000' y; echo '}'; } >\"$3/$4/config.yml\"",
		"finalize": "", "release": releases,
	})
	s.run(1, "d")
	assert.Contains(t, s.stderr.String(), "shorten output_metadata in config.yml (58 KiB")
	assert.Equal(t, "D", s.result().Lifecycle.Detected)
}

// The index has as many digits as the number of buildpacks, also where one of them is found
// by detection, and launch.yml and config.yml are read where it was written.
func TestBuilderPaddedIndex(t *testing.T) {
	t.Parallel()
	launch := "echo 'processes: [{type: web, command: launched}]' >\"$3/$4/launch.yml\"; echo 'name: Told' >\"$3/$4/config.yml\""
	var order []string
	for i := range 11 {
		order = append(order, fmt.Sprint("b", i))
	}
	s := newStaging(t, nil)
	for _, k := range order[:10] {
		s.script(k, map[string]string{"detect": "exit 1", "compile": ""})
	}
	s.script("b10", map[string]string{"detect": "echo Found", "finalize": launch, "release": "exit 1"})
	s.run(0, order...)
	assert.Equal(t, []struct{ Type, Command string }{{"web", "launched"}}, s.result().Processes)
	assert.Equal(t, "Told", s.result().Lifecycle.Detected)
	assert.Contains(t, s.archive("out/droplet"), "./deps/00/launch.yml")

	s = named(t, nil)
	for _, k := range order {
		s.script(k, map[string]string{"supply": "echo $4 >>\"$1/indexes\"", "finalize": launch, "release": "exit 1"})
	}
	s.run(0, order...)
	d := s.archive("out/droplet")
	assert.Equal(t, "00\n01\n02\n03\n04\n05\n06\n07\n08\n09\n10\n", d["./app/indexes"])
	assert.Contains(t, d, "./deps/10/launch.yml")
	assert.Len(t, s.result().Lifecycle.Buildpacks, 11)
	assert.Equal(t, "Told", s.result().Lifecycle.Detected)
}

// In detect mode there is one cache, that of the last and only buildpack.
func TestBuilderPrunesTheCache(t *testing.T) {
	t.Parallel()
	s := newStaging(t, map[string]string{
		"cache/final/kept": "1", "cache/" + xxh("always-detects") + "/supplied": "2", "cache/loose": "3", "outside/x": "4",
	})
	require.NoError(t, os.Symlink(s.path("outside"), s.path("cache/link")))
	s.run(0, "always-detects")
	assert.Equal(t, []string{"./", "./final/", "./final/artifact", "./final/kept"}, below(s.archive("out/cache"), "./"))
	assert.FileExists(t, s.path("outside/x"), "a link is removed, not what it leads to")
}

func TestBuilderNestedFolders(t *testing.T) {
	t.Parallel()
	s := named(t, nil)
	s.install("nested", xxh("nested"))
	s.install("has-supply", xxh("s")+"/inner")
	s.run(0, "s", "nested")
	assert.Contains(t, s.archive("out/droplet"), "./deps/0/supplied")

	s = named(t, nil) // of two, neither is meant
	s.install("always-detects", xxh("two")+"/a")
	s.install("always-detects", xxh("two")+"/b")
	s.run(225, "two")
	assert.Contains(t, s.stderr.String(), "malformed buildpack does not contain a /bin dir: two")
}

// Options of the platform are not for buildpacks, the rest of the environment is as it was given.
func TestBuilderEnvironment(t *testing.T) {
	t.Parallel()
	s := newStaging(t, nil)
	s.env = append(s.env, "VCAP_PLATFORM_OPTIONS={}", "GIVEN=a b", "DATABASE_URL=kept", "VCAP_SERVICES={not json")
	s.script("d", map[string]string{"detect": "", "compile": `echo "${VCAP_PLATFORM_OPTIONS-unset}|$GIVEN|$DATABASE_URL" >"$1/env"`, "release": releases})
	s.run(0, "d")
	assert.Equal(t, "unset|a b|kept\n", s.archive("out/droplet")["./app/env"])
}

// Who wrote a buildpack is told what is wrong with a script that cannot be run, and not where
// it lay or what fork said.
func TestBuilderScriptsThatCannotRun(t *testing.T) {
	t.Parallel()
	const good = "#!/bin/sh\n"
	for name, c := range map[string]struct {
		script, text string
		mode         os.FileMode // 0: absent
		code         int
		want         string
	}{
		"no compile":       {"compile", "", 0, 223, "Failed to compile droplet: bin/compile is missing\n"},
		"no release":       {"release", "", 0, 224, "Failed to build droplet release: bin/release is missing\n"},
		"not executable":   {"compile", good, 0o644, 223, "Failed to compile droplet: bin/compile is not executable; allow that (chmod +x)"},
		"release likewise": {"release", good, 0o644, 224, "Failed to build droplet release: bin/release is not executable"},
		"Windows":          {"compile", "#!/bin/sh\r\necho hi\r\n", 0o755, 223, "bin/compile has the line endings of Windows; save it with LF alone"},
		"no first line":    {"compile", "echo hi\n", 0o755, 223, "bin/compile has no first line such as #!/bin/sh\n"},
		"empty":            {"compile", "", 0o755, 223, "bin/compile is empty\n"},
		"by env":           {"compile", "#!/usr/bin/env no-such-ruby\n", 0o755, 223, "bin/compile needs no-such-ruby, as its first line says, which is not on the PATH"},
		"detect":           {"detect", "#!/no/such\n", 0o755, 222, "d: bin/detect needs /no/such, as its first line says"},
		"no detect":        {"detect", "", 0, 222, "d: bin/detect is missing\n"},
		"detect is killed": {"detect", good + "kill -9 $$\n", 0o755, 222, "d: signal: killed\n"},
		"in the script":    {"compile", good + "no-such-tool\n", 0o755, 223, "Failed to compile droplet: bin/compile: exit status 127\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStaging(t, nil)
			s.script("d", map[string]string{"detect": "echo D", "compile": "", "release": releases})
			file := s.path("buildpacks/" + xxh("d") + "/bin/" + c.script)
			require.NoError(t, os.Remove(file))
			if c.mode != 0 {
				require.NoError(t, os.WriteFile(file, []byte(c.text), c.mode))
				require.NoError(t, os.Chmod(file, c.mode))
			}
			s.run(c.code, "d")
			assert.Contains(t, s.stderr.String(), c.want)
			if name != "in the script" { // there it is the shell's word
				assert.NotContains(t, s.stderr.String(), s.dir)
			}
			assert.NotContains(t, s.stderr.String(), "/home/vcap", "a line of ours is not to be taken for a script's")
			assert.Equal(t, name == "in the script", strings.Contains(s.stderr.String(), "hint: "))
		})
	}
}
