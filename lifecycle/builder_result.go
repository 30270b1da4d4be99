package lifecycle

import (
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/dewpoint-go/dewpoint/droplet"
)

// builderResult is result.json, in the names of Cloud Foundry's buildpackapplifecycle.
type builderResult struct {
	LifecycleMetadata builderMetadata   `json:"lifecycle_metadata"`
	ProcessTypes      map[string]string `json:"process_types"`
	Processes         []builtProcess    `json:"processes"`
	Sidecars          []builtSidecar    `json:"sidecars,omitempty"`
	ExecutionMetadata string            `json:"execution_metadata"`
	LifecycleType     string            `json:"lifecycle_type"`
}

type builderMetadata struct {
	BuildpackKey      string          `json:"buildpack_key"`
	DetectedBuildpack string          `json:"detected_buildpack"`
	Buildpacks        []usedBuildpack `json:"buildpacks"`
}

type usedBuildpack struct {
	Key            string                `json:"key"`
	Name           string                `json:"name"`
	Version        string                `json:"version,omitempty"`
	Config         *droplet.LaunchConfig `json:"config,omitempty"`
	OutputMetadata any                   `json:"output_metadata,omitempty"`
}

func newResult(used []usedBuildpack, l processList) builderResult {
	r := builderResult{ProcessTypes: map[string]string{}, Processes: l.processes, Sidecars: l.sidecars, LifecycleType: "buildpack"}
	if r.Processes == nil {
		r.Processes = []builtProcess{}
	}
	for _, p := range l.processes {
		r.ProcessTypes[p.Type] = p.Command
	}
	r.LifecycleMetadata.Buildpacks = append([]usedBuildpack{}, used...)
	if n := len(used); n > 0 {
		r.LifecycleMetadata.BuildpackKey = used[n-1].Key
		r.LifecycleMetadata.DetectedBuildpack = used[n-1].Name
	}
	return r
}

func writeJSON(file string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}
