package lifecycle

import (
	"encoding/json"
	"fmt"
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

// maxResult is how long result.json may be: whoever runs a staging takes no more of it.
const maxResult = 50 << 10

// writeResult writes result.json, or says what of it is too much.
func writeResult(file string, r builderResult) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if len(b) <= maxResult {
		return writeBytes(file, b)
	}
	metadata, err := json.Marshal(r.LifecycleMetadata)
	if err != nil {
		return err
	}
	return fmt.Errorf("builder: what the buildpacks tell of themselves and of processes is %d KiB, and %d KiB can be kept: "+
		"shorten output_metadata in config.yml (%d KiB with the names), or the commands in launch.yml, bin/release and Procfile (%d KiB)",
		len(b)>>10, maxResult>>10, len(metadata)>>10, (len(b)-len(metadata))>>10)
}

func writeJSON(file string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return writeBytes(file, b)
}

func writeBytes(file string, b []byte) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, b, 0o644)
}
