package buildpack

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/staging"
)

// The exit codes of upstream's builder (buildpackapplifecycle, models.go).
const (
	exitDetect   = 222
	exitCompile  = 223
	exitRelease  = 224
	exitSupply   = 225
	exitFinalize = 226
)

// resultFile is the builder's result.json.
type resultFile struct {
	Lifecycle struct {
		Key        string              `json:"buildpack_key"`
		Detected   string              `json:"detected_buildpack"`
		Buildpacks []staging.Buildpack `json:"buildpacks"`
	} `json:"lifecycle_metadata"`
	Types     map[string]string `json:"process_types"`
	Processes []staging.Process `json:"processes"`
	Sidecars  []staging.Sidecar `json:"sidecars"`
}

// Result implements staging.BuildpackRunner. What the builder wrote is in the Result of a
// failed staging, too. That there is no start command is no error here: whoever runs the
// droplet may have one.
func (b *Runner) Result(_ context.Context, r staging.Request, s cell.Status) (staging.Result, error) {
	res, err := read(r, s)
	if e := staging.Failed(r, s); e != nil {
		explain(e, r, s, res)
		return res, e
	}
	if err != nil {
		return res, &staging.Error{Reason: staging.StagingError, Staging: r.ID, Name: r.AppName, Phase: staging.PhaseResult, Last: s.Last,
			Text: "Malformed result of the builder", Cure: "if the cell has another version of the lifecycle, bring both to the same", Err: err}
	}
	droplet, ok := s.Outputs[dropletPath]
	if !ok {
		return res, &staging.Error{Reason: staging.StagingError, Staging: r.ID, Name: r.AppName, Phase: staging.PhaseSave, Last: s.Last,
			Text: "the builder ended well, but the cell gave back no droplet", Retryable: true}
	}
	res.Droplet = droplet
	if c, ok := s.Outputs[cachePath]; ok {
		res.Cache = &c
	}
	return res, nil
}

// read takes what result.json tells. Its absence is an error too.
func read(r staging.Request, s cell.Status) (staging.Result, error) {
	out, ok := s.Outputs[resultPath]
	if !ok {
		return staging.Result{}, fmt.Errorf("%s is missing", resultPath)
	}
	var f resultFile
	if err := json.Unmarshal(out.Data, &f); err != nil {
		return staging.Result{}, fmt.Errorf("%s: %w", resultPath, err)
	}
	res := staging.Result{
		DetectedBuildpack: f.Lifecycle.Detected, Buildpacks: f.Lifecycle.Buildpacks,
		Processes: f.Processes, Sidecars: f.Sidecars, Metadata: out.Data,
	}
	if len(res.Processes) == 0 {
		for _, t := range slices.Sorted(maps.Keys(f.Types)) {
			res.Processes = append(res.Processes, staging.Process{Type: t, Command: f.Types[t]})
		}
	}
	for i, bp := range res.Buildpacks {
		for _, name := range r.Buildpacks {
			if bp.Key == urlKey(name) {
				res.Buildpacks[i].Key = redact(name)
			}
		}
	}
	return res, nil
}

// explain gives the builder's exit codes their meaning. The codes themselves are looked at,
// never the end of a text that may be a number by accident.
func explain(e *staging.Error, r staging.Request, s cell.Status, res staging.Result) {
	if s.Reason == cell.ReasonExit && s.Exit != nil && s.Exit.Signal == "" && !s.Exit.OutOfMemory {
		e.Text = ""
		last := "the buildpack"
		if n := len(res.Buildpacks); n > 0 {
			bp := res.Buildpacks[n-1]
			last = strings.TrimSpace("buildpack " + nonEmpty(bp.Name, bp.Key) + " " + bp.Version)
		}
		said := final(s.Last)
		switch s.Exit.Code {
		case exitDetect:
			e.Reason, said = staging.NoAppDetected, ""
		case exitCompile, exitFinalize:
			e.Reason, e.Text = staging.BuildpackCompileFailed, last+" failed to compile the app"
		case exitRelease:
			e.Reason, e.Text = staging.BuildpackReleaseFailed, last+" failed in bin/release, or what that printed is not YAML"
		case exitSupply:
			e.Reason = staging.BuildpackSupplyFailed
			if len(res.Buildpacks) > 0 { // else it was refused before anything ran
				e.Text = last + " could not supply its part"
			}
		default:
			e.Text, e.Cure = "the builder failed", "its last lines say why"
		}
		if said != "" && e.Text != "" {
			e.Text += ": " + said
			if e.Cure = "mend that in the buildpack"; e.Reason == staging.StagingError {
				e.Cure = "mend that" // the app's own Procfile, mostly
			}
		}
	}
	if p := fixedPath(s.Last); p != "" {
		e.Cure = fmt.Sprintf("a script names %s, which exists only on cells with a root filesystem of their own: "+
			"let it use its arguments and HOME instead, or stage on such a cell", p)
	}
}

// final is what the builder said at its end, behind the words that are those of the exit
// status, where that is more than how a script ended.
func final(last []string) string {
	for _, l := range slices.Backward(last) {
		for _, begin := range []string{"Failed to compile droplet: ", "Failed to build droplet release: ", "Failed to run all supply scripts: ", "builder: "} {
			if text, ok := strings.CutPrefix(l, begin); ok {
				if strings.Contains(text, "exit status ") || strings.Contains(text, "signal: ") {
					return ""
				}
				return text
			}
		}
		if strings.HasPrefix(l, "Failed to read ") || strings.HasPrefix(l, "Failed to download ") {
			return l
		}
	}
	return ""
}

func nonEmpty(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// fixedPath finds, in the last lines, a path of Cloud Foundry's containers that a script has
// written out and that was not there.
func fixedPath(last []string) string {
	for _, l := range last {
		if !strings.Contains(l, "No such file") && !strings.Contains(l, "no such file") && !strings.Contains(l, "ENOENT") {
			continue
		}
		for _, dir := range []string{"/home/vcap", "/tmp/app", "/tmp/cache", "/tmp/buildpacks"} {
			i := strings.Index(l, dir)
			// In a folder of cell/process the same words stand in the middle of a path.
			if i < 0 || i > 0 && !strings.ContainsRune(" '\"`:=(‘", rune(l[i-1])) && l[i-1] < 0x80 {
				continue
			}
			rest := l[i:]
			if j := strings.IndexAny(rest, " '\"`:,)"); j > 0 {
				rest = rest[:j]
			}
			return strings.ToValidUTF8(rest, "")
		}
	}
	return ""
}
