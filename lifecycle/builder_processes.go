package lifecycle

import (
	"errors"
	"fmt"
	"slices"

	yaml "go.yaml.in/yaml/v3"
)

// builtProcess is a process type of a droplet, as in result.json.
type builtProcess struct {
	Type    string `json:"type"`
	Command string `json:"command"`
}

type builtSidecar struct {
	Name         string   `json:"name"`
	ProcessTypes []string `json:"process_types"`
	Command      string   `json:"command"`
	Memory       int      `json:"memory,omitempty"` // MB
}

// processList is what launch.yml files, bin/release and a Procfile make together: the same
// name replaces in its place, a new one is appended.
type processList struct {
	processes []builtProcess
	sidecars  []builtSidecar
}

func (l *processList) merge(more processList) {
	for _, p := range more.processes {
		if i := slices.IndexFunc(l.processes, func(q builtProcess) bool { return q.Type == p.Type }); i >= 0 {
			l.processes[i] = p
		} else {
			l.processes = append(l.processes, p)
		}
	}
	for _, s := range more.sidecars {
		if i := slices.IndexFunc(l.sidecars, func(q builtSidecar) bool { return q.Name == s.Name }); i >= 0 {
			l.sidecars[i] = s
		} else {
			l.sidecars = append(l.sidecars, s)
		}
	}
}

func (l *processList) command(processType string) string {
	for _, p := range l.processes {
		if p.Type == processType {
			return p.Command
		}
	}
	return ""
}

// parseLaunch reads a launch.yml.
func parseLaunch(b []byte) (l processList, err error) {
	var f struct {
		Processes []struct {
			Type    string
			Command string
			Limits  struct{ Memory int }
			// One platform is ours.
			Platforms struct {
				CloudFoundry struct {
					SidecarFor []string `yaml:"sidecar_for"`
				} `yaml:"cloudfoundry"`
			}
		}
	}
	if err := yaml.Unmarshal(b, &f); err != nil {
		return l, err
	}
	for _, p := range f.Processes {
		if p.Type == "" {
			return l, errors.New("a process has no type")
		}
		if types := p.Platforms.CloudFoundry.SidecarFor; len(types) > 0 {
			s := builtSidecar{Name: p.Type, ProcessTypes: types, Command: p.Command, Memory: p.Limits.Memory}
			l.merge(processList{sidecars: []builtSidecar{s}})
		} else {
			l.merge(processList{processes: []builtProcess{{p.Type, p.Command}}})
		}
	}
	return l, nil
}

// parseProcfile reads a Procfile, whose lines "type: command" are YAML.
func parseProcfile(b []byte) (processList, error) {
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil {
		return processList{}, err
	}
	return parseTypes(&n)
}

// parseRelease reads what bin/release printed.
func parseRelease(b []byte) (processList, error) {
	var f struct {
		Types yaml.Node `yaml:"default_process_types"`
	}
	if err := yaml.Unmarshal(b, &f); err != nil {
		return processList{}, err
	}
	return parseTypes(&f.Types)
}

// parseTypes reads a mapping of types to commands, in the file's order.
func parseTypes(n *yaml.Node) (l processList, err error) {
	if n.Kind == yaml.DocumentNode && len(n.Content) == 1 {
		n = n.Content[0]
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n.Kind == 0 || n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return l, nil
	}
	if n.Kind != yaml.MappingNode {
		return l, fmt.Errorf("line %d: not a list of \"type: command\"", n.Line)
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		k, v := n.Content[i], n.Content[i+1]
		var p builtProcess
		if err := errors.Join(k.Decode(&p.Type), v.Decode(&p.Command)); err != nil {
			return l, err
		}
		if p.Type == "" {
			return l, fmt.Errorf("line %d: a process has no type", k.Line)
		}
		l.merge(processList{processes: []builtProcess{p}})
	}
	return l, nil
}

// buildpackConfig is deps/<index>/config.yml, by which a buildpack tells of itself.
type buildpackConfig struct {
	Name    string
	Version string
	Config  struct {
		EntrypointPrefix string `yaml:"entrypoint_prefix"`
	}
	OutputMetadata any `yaml:"output_metadata"`
}

func parseConfig(b []byte) (c buildpackConfig, err error) {
	if err := yaml.Unmarshal(b, &c); err != nil {
		return buildpackConfig{}, err
	}
	c.OutputMetadata = jsonable(c.OutputMetadata)
	return c, nil
}

// jsonable turns what YAML allows and JSON does not, keys that are not strings, into text.
func jsonable(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = jsonable(v[k])
		}
		return v
	case map[any]any:
		m := make(map[string]any, len(v))
		for k, x := range v {
			m[fmt.Sprint(k)] = jsonable(x)
		}
		return m
	case []any:
		for i := range v {
			v[i] = jsonable(v[i])
		}
		return v
	case float64:
		if v-v != 0 { // infinite, or not a number
			return fmt.Sprint(v)
		}
	}
	return v
}
