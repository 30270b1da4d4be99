package staging

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

// Request asks for one staging.
type Request struct {
	// ID names the staging for ever (Cloud Foundry's build guid); it is the id of its work.
	ID string `json:"id"`
	// App is the app's id: one staging at a time for each, and the key of its build cache.
	App     string `json:"app"`
	AppName string `json:"appName,omitempty"`
	// Package is where the package is, and its digest if known.
	Package cell.Input `json:"package"`
	// Cache, if set, is where the build cache of the last staging is.
	Cache *cell.Input `json:"cache,omitempty"`
	// Buildpacks to use, in order: names of the catalogue, or locations. None: detect.
	Buildpacks []string `json:"buildpacks,omitempty"`
	Stack      string   `json:"stack,omitempty"`
	// Tags and Isolation say which cells will do, as in cell.Spec.
	Tags      []string `json:"tags,omitempty"`
	Isolation string   `json:"isolation,omitempty"`
	// Env is the app's environment, "K=V"; later wins.
	Env []string `json:"env,omitempty"`
	// Application is VCAP_APPLICATION; nil: made of App and AppName.
	Application json.RawMessage `json:"application,omitempty"`
	// Services is VCAP_SERVICES; nil: not set.
	Services json.RawMessage `json:"services,omitempty"`
	// Memory and Disk in bytes are raised to at least 1 GiB and 4 GiB.
	Memory int64 `json:"memory,omitempty"`
	Disk   int64 `json:"disk,omitempty"`
	// Timeout of the whole; 0: 15 minutes.
	Timeout time.Duration `json:"timeout,omitempty"`
	// DropletKey and CacheKey are the blobs to make.
	DropletKey string `json:"dropletKey"`
	CacheKey   string `json:"cacheKey"`
}

// Process is a process type that staging found.
type Process struct {
	Type    string `json:"type"`
	Command string `json:"command"`
}

// Sidecar is a process that runs beside others.
type Sidecar struct {
	Name         string   `json:"name"`
	ProcessTypes []string `json:"process_types"`
	Command      string   `json:"command"`
	Memory       int      `json:"memory,omitempty"` // MB
}

// Buildpack tells which buildpack took part.
type Buildpack struct {
	Key     string `json:"key"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
}

// Result is what a staging made.
type Result struct {
	Droplet cell.Saved  `json:"droplet"`
	Cache   *cell.Saved `json:"cache,omitempty"` // nil: the cache was not kept
	// DetectedBuildpack is what bin/detect or config.yml called it.
	DetectedBuildpack string      `json:"detectedBuildpack"`
	Buildpacks        []Buildpack `json:"buildpacks,omitempty"`
	Processes         []Process   `json:"processes,omitempty"`
	Sidecars          []Sidecar   `json:"sidecars,omitempty"`
	// Metadata is the builder's result.json, whole.
	Metadata json.RawMessage `json:"metadata,omitempty"`
	// Phases tells how long each part took, in order.
	Phases []Phase `json:"phases,omitempty"`
}

// Command returns the start command of a process type, "" if there is none.
func (r *Result) Command(processType string) string {
	for _, p := range r.Processes {
		if p.Type == processType {
			return p.Command
		}
	}
	return ""
}

// Phase is a part of a staging with the time that it took.
type Phase struct {
	Name     string        `json:"name"`
	Duration time.Duration `json:"duration"`
}

// BuildpackRunner knows one kind of buildpacks. Both methods may be called by any number
// of goroutines. The conformance suite is stagingtest.Run.
type BuildpackRunner interface {
	// Plan says what to run. An error that is an *Error is passed on as it is. Plan may
	// fetch (git or zip URLs), telling out of it.
	Plan(ctx context.Context, r Request, out func(logs.Line)) (cell.Work, error)
	// Result reads what a finished work left behind; of a failed one it returns the *Error.
	Result(ctx context.Context, r Request, s cell.Status) (Result, error)
}

// TaskRunner runs a work to its end on some cell.
type TaskRunner interface {
	// RunTask returns after the last line went to out. A failure of the work itself is in
	// the Status, not in the error: errors are for work that could not be run or whose
	// outcome is lost. When ctx ends, the work is stopped first, within a second.
	RunTask(ctx context.Context, w cell.Work, out func(logs.Line)) (cell.Status, error)
}

// ImageFetcher learns what an image needs to run.
type ImageFetcher interface {
	// Fetch resolves a reference. The error for bad references and registries is an *Error.
	Fetch(ctx context.Context, r ImageRequest) (Image, error)
}

// ImageRequest names an image.
type ImageRequest struct {
	// ID names the fetch for ever, as Request.ID does a staging; App is what its lines are labelled with. An
	// ImageFetcher that runs no task needs neither.
	ID  string
	App string
	// Ref is the image: "HOST/REPOSITORY:TAG" or "…@sha256:…"; without a host it is Docker Hub's, without a tag "latest".
	Ref string
	// Username and Password are for the registry of Ref alone; "": those that the ImageFetcher knows, or none.
	Username string
	Password string // never logged, kept or shown
	Platform string // "linux/amd64"; "": that of the ImageFetcher
	// Known are images that were fetched before. If Ref still names one of them, that is the answer and its
	// metadata is not asked for again.
	Known []Image
	// Tags and Isolation say which cells will do, as in cell.Spec, and Stack in what the fetch runs, if it does on a cell.
	Tags      []string
	Isolation string
	Stack     string
	Out       func(logs.Line)
}

// Image is the metadata of an image.
type Image struct {
	// Ref is the whole name, with the digest that it was resolved to: "host/repository:tag@sha256:…".
	Ref    string `json:"ref"`
	Digest string `json:"digest"` // of the image for one platform: sha256:…
	// Index is the digest of the list of platforms that the name stood for; "": it stood for the image itself.
	Index      string   `json:"index,omitempty"`
	Platform   string   `json:"platform,omitempty"` // "linux/amd64"
	Size       int64    `json:"size,omitempty"`     // bytes of its layers as they are fetched
	Entrypoint []string `json:"entrypoint,omitempty"`
	Cmd        []string `json:"cmd,omitempty"`
	WorkingDir string   `json:"workdir,omitempty"`
	User       string   `json:"user,omitempty"`
	Env        []string `json:"env,omitempty"`
	Ports      []int    `json:"ports,omitempty"` // TCP, in order
}

// Pinned is the image by its digest alone, "host/repository@sha256:…": what a cell is told to run.
func (i Image) Pinned() string {
	name, _, _ := strings.Cut(i.Ref, "@")
	if at := strings.LastIndexByte(name, ':'); at > strings.LastIndexByte(name, '/') {
		name = name[:at]
	}
	return name + "@" + i.Digest
}

// Command is what the image runs: its entrypoint and then its cmd.
func (i Image) Command() []string { return slices.Concat(i.Entrypoint, i.Cmd) }
