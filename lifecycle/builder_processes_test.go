package lifecycle

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseLaunch(t *testing.T) {
	t.Parallel()
	l, err := parseLaunch([]byte(`
processes:
- type: web
  command: A
- type: worker
  command: B
- type: oldrelic
  command: or
  limits: {memory: 10}
  platforms: {cloudfoundry: {sidecar_for: [web]}}
- type: web
  command: C
`))
	require.NoError(t, err)
	assert.Equal(t, processList{
		processes: []builtProcess{{"web", "C"}, {"worker", "B"}},
		sidecars:  []builtSidecar{{"oldrelic", []string{"web"}, "or", 10}},
	}, l)
	for _, bad := range []string{"processes: 3", "processes: [{command: x}]", "processes: [{type: a, limits: {memory: much}}]"} {
		_, err := parseLaunch([]byte(bad))
		assert.Error(t, err, bad)
	}
}

func TestParseTypes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string][]builtProcess{
		"":                      nil,
		"# nothing":             nil,
		"web: a\nworker: b: c ": nil, // not YAML
		"web: run $PORT\nz: 1":  {{"web", "run $PORT"}, {"z", "1"}},
		"b: 1\na: 2":            {{"b", "1"}, {"a", "2"}},
		"web: [a]":              nil,
		"- web":                 nil,
	} {
		l, err := parseProcfile([]byte(text))
		if want == nil && text != "" && text[0] != '#' {
			assert.Error(t, err, text)
			continue
		}
		require.NoError(t, err, text)
		assert.Equal(t, want, l.processes, text)
	}
	l, err := parseRelease([]byte("addons: []\ndefault_process_types:\n  web: x\n"))
	require.NoError(t, err)
	assert.Equal(t, []builtProcess{{"web", "x"}}, l.processes)
	l, err = parseRelease([]byte("default_process_types:\n"))
	require.NoError(t, err)
	assert.Empty(t, l.processes)
}

func TestDatabaseURL(t *testing.T) {
	t.Parallel()
	service := func(uri string) string { return `{"x":[{"credentials":{"uri":` + uri + `}}]}` }
	for services, want := range map[string]string{
		"":                                 "",
		"[]":                               "",
		"{":                                "",
		service(`"mysql://h"`):             "mysql2://h",
		service(`"mysql2://h"`):            "mysql2://h",
		service(`"postgres://h"`):          "postgres://h",
		service(`"postgresql://h?a=://b"`): "postgres://h?a=://b",
		service(`"redis://h"`):             "",
		service(`7`):                       "",
		`{"a":[{"credentials":"text"}],"b":[{"credentials":{"uri":"x"}},{"credentials":{"uri":"mysql://1"}}],"c":[{"credentials":{"uri":"mysql://2"}}]}`: "mysql2://1",
	} {
		assert.Equal(t, want, databaseURL([]byte(services)), services)
	}
}

func FuzzProcesses(f *testing.F) {
	f.Add([]byte("web: a\nworker: b"))
	f.Add([]byte("default_process_types: {web: a}"))
	f.Add([]byte("processes: [{type: a, command: b, platforms: {cloudfoundry: {sidecar_for: [web]}}}]"))
	f.Add([]byte("a: &a {x: *a}"))
	f.Add([]byte("output_metadata: {1: .inf, [a]: {b: c}}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (processList, error){parseProcfile, parseRelease, parseLaunch} {
			l, err := parse(b)
			if err != nil {
				continue
			}
			seen := map[string]bool{}
			for _, p := range l.processes {
				if p.Type == "" || seen[p.Type] {
					t.Fatalf("%q: %v", b, l)
				}
				seen[p.Type] = true
			}
		}
		if c, err := parseConfig(b); err == nil {
			if _, err := json.Marshal(c.OutputMetadata); err != nil {
				t.Fatalf("%q: %v", b, err)
			}
		}
		databaseURL(b)
	})
}
