package dewpoint

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/state"
)

// App is an app as its owner wants it. Rows are values: what is returned may be kept.
type App struct {
	ID   string `json:"id"`
	Name string `json:"name"` // unique
	// Env is the environment of all its processes, "K=V"; later wins.
	Env        []string `json:"env,omitempty"`
	Buildpacks []string `json:"buildpacks,omitempty"`
	Stack      string   `json:"stack,omitempty"`
	// Tags are the placement tags of the cells that will do, and Isolation is the least level that
	// will, for stagings, instances and tasks alike: see cell.Spec.
	Tags      []string `json:"tags,omitempty"`
	Isolation string   `json:"isolation,omitempty"`
	// Strategy and MaxInFlight are how the next version takes over, as in PushRequest.
	Strategy    Strategy `json:"strategy,omitempty"`
	MaxInFlight int      `json:"maxInFlight,omitempty"`
	Started     bool     `json:"started"`
	// Processes are what it runs: web first, and the others by name.
	Processes []Process `json:"processes"`
	// Owned are the ids of all that the scheduler may run for it. An id is here before the
	// scheduler hears of it and until it has let go, so that nothing runs on that nobody owns.
	Owned []lrp.ID `json:"owned,omitempty"`
	// Package and Droplet are the current ones; "" before the first, and where Image is what runs.
	Package string `json:"package,omitempty"`
	Droplet string `json:"droplet,omitempty"`
	// Image is the container image that is run instead; nil: none.
	Image   *Image    `json:"image,omitempty"`
	Created time.Time `json:"created"`
	Updated time.Time `json:"updated"`
}

// Web is the type of the process that gets an app's requests.
const Web = "web"

// Process is a kind of process of an app. A droplet's process types become processes with
// no instances, but for web, which has one.
type Process struct {
	Type      string `json:"type"`
	Instances int    `json:"instances"` // wanted while the app is started
	// Next is how many instances the next push or restart begins with, where a push that asked for
	// that has not come so far; nil: Instances.
	Next   *int  `json:"next,omitempty"`
	Memory int64 `json:"memory"` // bytes for each instance
	Disk   int64 `json:"disk"`   // bytes for each instance
	// Command overrides the droplet's start command; "" leaves it.
	Command string `json:"command,omitempty"`
	// Ports that it listens on, in its container's numbers; the first is PORT and gets the requests. None: for web those that
	// an image exposes, or 8080.
	Ports []int `json:"ports,omitempty"`
	// User is who it runs as in an image: "USER" or "USER:GROUP"; "": whom the image names. Droplets run as vcap.
	User string `json:"user,omitempty"`
	// Health says how its health is learned; zero: for web a TCP connection to its port within
	// 60 seconds, for others that it runs.
	Health cell.Health `json:"health"`
	// LogRate is how many bytes each instance may print in a second; 0: no limit; negative: nothing
	// is kept.
	LogRate int64 `json:"logRate,omitempty"`
	// Grace is how long an instance may take from SIGTERM to SIGKILL; 0: lrp.DefaultGrace.
	Grace time.Duration `json:"grace,omitempty"`
	// LRP is the id of what the scheduler runs of it now; "" while the app is stopped.
	LRP lrp.ID `json:"lrp,omitempty"`
	// Successor is the id of the version that is taking its place, and gets requests beside it; "":
	// none is.
	Successor lrp.ID `json:"successor,omitempty"`
}

// nameKey is the name as it must be unique: routes know no case.
func nameKey(name string) string { return strings.ToLower(name) }

// Process returns the process of a type; none: one that has the type only.
func (a App) Process(processType string) Process {
	for _, p := range a.Processes {
		if p.Type == processType {
			return p
		}
	}
	return Process{Type: processType}
}

// set puts a process in its place; the Processes that a has shared before are not changed.
func (a *App) set(p Process) {
	all := make([]Process, 0, len(a.Processes)+1)
	for _, old := range a.Processes {
		if old.Type != p.Type {
			all = append(all, old)
		}
	}
	all = append(all, p)
	slices.SortFunc(all, func(x, y Process) int {
		switch {
		case x.Type == Web:
			return -1
		case y.Type == Web:
			return 1
		}
		return strings.Compare(x.Type, y.Type)
	})
	a.Processes = all
}

// bare is the app without its settings: what it runs goes on.
func (a App) bare() App {
	b := App{ID: a.ID, Name: a.Name, Started: a.Started, Owned: a.Owned, Package: a.Package, Droplet: a.Droplet, Image: a.Image, Created: a.Created}
	for _, pr := range a.Processes {
		p := newProcess(pr.Type)
		if pr.LRP != "" {
			next := p.Instances
			p.LRP, p.Successor, p.Next, p.Instances = pr.LRP, pr.Successor, &next, pr.Instances
		}
		b.set(p)
	}
	return b
}

// serving are the ids of what gets the requests of a web process.
func (p *Process) serving() []lrp.ID {
	if p.Successor == "" {
		return []lrp.ID{p.LRP}
	}
	return []lrp.ID{p.LRP, p.Successor}
}

// lrps are the ids of what runs of an app, but for what takes its place.
func (a *App) lrps() []lrp.ID {
	var ids []lrp.ID
	for _, p := range a.Processes {
		if p.LRP != "" {
			ids = append(ids, p.LRP)
		}
	}
	return ids
}

// Package is an app's source as it was uploaded.
type Package struct {
	ID  string `json:"id"`
	App string `json:"app"`
	// Key is the blob of the manifest; Keys are all blobs that the package needs, Key included.
	Key     string    `json:"key"`
	Keys    []string  `json:"keys"`
	SHA256  string    `json:"sha256"`
	Files   int       `json:"files"`
	Size    int64     `json:"size"` // bytes, uncompressed
	Created time.Time `json:"created"`
}

// BuildState is where a staging stands.
type BuildState string

// The states of a build.
const (
	BuildStaging BuildState = "STAGING"
	BuildStaged  BuildState = "STAGED"
	BuildFailed  BuildState = "FAILED"
)

// Build is one staging.
type Build struct {
	ID      string          `json:"id"`
	App     string          `json:"app"`
	Package string          `json:"package,omitempty"`
	Droplet string          `json:"droplet,omitempty"`
	Image   string          `json:"image,omitempty"` // what was asked for, and then what that was resolved to
	State   BuildState      `json:"state"`
	Error   string          `json:"error,omitempty"`
	Reason  string          `json:"reason,omitempty"` // of the staging.Error
	Retry   bool            `json:"retry,omitempty"`  // trying again may help
	Phases  []staging.Phase `json:"phases,omitempty"`
	Created time.Time       `json:"created"`
	Ended   time.Time       `json:"ended,omitzero"`
}

// Droplet is a staged app, ready to run.
type Droplet struct {
	ID                string              `json:"id"`
	App               string              `json:"app"`
	Package           string              `json:"package"`
	Key               string              `json:"key"`
	SHA256            string              `json:"sha256"`
	Size              int64               `json:"size"` // bytes
	DetectedBuildpack string              `json:"detectedBuildpack,omitempty"`
	Buildpacks        []staging.Buildpack `json:"buildpacks,omitempty"`
	Processes         []staging.Process   `json:"processes,omitempty"`
	Sidecars          []staging.Sidecar   `json:"sidecars,omitempty"`
	Created           time.Time           `json:"created"`
}

// Command returns the start command of a process type, "" if there is none.
func (d Droplet) Command(processType string) string {
	r := staging.Result{Processes: d.Processes}
	return r.Command(processType)
}

// Buildpack returns the name of the buildpack that built the droplet: the detected one's, else
// that by which it was asked for.
func (d Droplet) Buildpack() string {
	if d.DetectedBuildpack == "" && len(d.Buildpacks) > 0 {
		last := d.Buildpacks[len(d.Buildpacks)-1]
		return cmp.Or(last.Name, last.Key)
	}
	return d.DetectedBuildpack
}

// buildCache is what the last staging of an app left for the next one.
type buildCache struct {
	App    string `json:"app"`
	Stack  string `json:"stack"`
	Key    string `json:"key"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

var (
	// launched is what the scheduler was told of each id in App.Owned, or is about to be told: it
	// does not change with the settings of the app, until that is started anew.
	launched = state.NewTable("launched", func(d lrp.Desired) string { return string(d.ID) })

	apps = state.NewTable("apps", func(a App) string { return a.ID },
		state.Index[App]{Name: "name", Unique: true, Keys: func(a App) []string { return []string{nameKey(a.Name)} }},
		state.Index[App]{Name: "lrp", Keys: func(a App) []string {
			keys := make([]string, 0, len(a.Processes))
			for _, id := range a.lrps() {
				keys = append(keys, string(id))
			}
			for _, p := range a.Processes {
				if p.Successor != "" {
					keys = append(keys, string(p.Successor))
				}
			}
			return keys
		}})
	packages = state.NewTable("packages", func(p Package) string { return p.ID },
		state.Index[Package]{Name: "app", Keys: func(p Package) []string { return []string{p.App} }})
	builds = state.NewTable("builds", func(b Build) string { return b.ID },
		state.Index[Build]{Name: "app", Keys: func(b Build) []string { return []string{b.App} }},
		state.Index[Build]{Name: "state", Keys: func(b Build) []string { return []string{string(b.State)} }})
	droplets = state.NewTable("droplets", func(d Droplet) string { return d.ID },
		state.Index[Droplet]{Name: "app", Keys: func(d Droplet) []string { return []string{d.App} }})
	routes = state.NewTable("routes", Route.key,
		state.Index[Route]{Name: "app", Keys: func(r Route) []string { return []string{r.App} }})
	caches = state.NewTable("buildcaches", func(c buildCache) string { return c.App },
		state.Index[buildCache]{Name: "key", Keys: func(c buildCache) []string { return []string{c.Key} }})
)
