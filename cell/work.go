package cell

import (
	"time"
)

// Work is the one description of something to run: a task (no Health: done when it exits)
// or an instance of a long-running process. It is plain data and travels as JSON.
//
// Paths are those of a container with a root filesystem: "/tmp/app", "/home/vcap". Where a
// Runtime has none, it gives each a folder of the container (see [Pather]); the text
// "{{path /tmp/app}}" in arguments and environment values is replaced by what the path
// is called inside.
type Work struct {
	// ID names it on its cell for ever: no other work may have had it. The form is that
	// of Creation.ID.
	ID      string  `json:"id"`
	Spec    Spec    `json:"spec"`
	Layers  []Input `json:"layers,omitempty"` // shared by digest
	Inputs  []Input `json:"inputs,omitempty"` // private copies, put in before the process starts
	Process Process `json:"process"`
	// Sidecars run beside the process in its container. They are codependent: one ends, all end.
	// The limits of Spec hold for all of them together. A Grace of 0 is that of the process.
	Sidecars []Process     `json:"sidecars,omitempty"`
	Health   *Health       `json:"health,omitempty"`
	Outputs  []Output      `json:"outputs,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"` // of the whole; 0: none
	Log      LogTag        `json:"log"`
	// LRP and Index tell a scheduler which instance this is; opaque to the cell.
	LRP   string `json:"lrp,omitempty"`
	Index int    `json:"index,omitempty"`
}

// Spec is what a container must be.
type Spec struct {
	Stack string `json:"stack,omitempty"` // "" is the cell's first
	// Image, if set, is the root filesystem in place of a stack: "host/repository@sha256:…". It is the container's own to
	// write to.
	Image  string `json:"image,omitempty"`
	Memory int64  `json:"memory,omitempty"` // bytes; 0: no limit
	Disk   int64  `json:"disk,omitempty"`   // bytes; 0: no limit
	CPU    int    `json:"cpu,omitempty"`    // weight, 1 to 100
	PIDs   int    `json:"pids,omitempty"`
	NoFile int    `json:"nofile,omitempty"`
	// LogRate is how many bytes of output an instance may print in a second, and at once; what
	// comes above is dropped for a second, which is said once. 0: no limit; negative: nothing is kept.
	LogRate int64 `json:"logRate,omitempty"`
	// User is who processes run as; "": the Runtime's default. In an image it is "USER" or "USER:GROUP", by name or number, as
	// the image knows them. Who is root there under another name is refused.
	User string `json:"user,omitempty"`
	// Ports to reach from outside, in the container's own numbers.
	Ports []int `json:"ports,omitempty"`
	// Tags are the placement tags of the cells that will do: a cell must have them all, and
	// none that it requires may be missing here.
	Tags []string `json:"tags,omitempty"`
	// Isolation is the least level that will do; "" takes any.
	Isolation string `json:"isolation,omitempty"`
}

// Process is a program to run in a container.
type Process struct {
	// ID names it within its container; "" is "main".
	ID   string   `json:"id,omitempty"`
	Path string   `json:"path"` // a program or, if it begins with "lifecycle:", a role: "lifecycle:builder"
	Args []string `json:"args,omitempty"`
	// Env holds "K=V" and is the whole environment apart from what the Agent adds
	// (CF_INSTANCE_*, PORT, …); later wins.
	Env []string `json:"env,omitempty"`
	Dir string   `json:"dir,omitempty"`
	// Grace is the time from SIGTERM to SIGKILL. 0: SIGKILL at once.
	Grace time.Duration `json:"grace,omitempty"`
}

// Source says where bytes are: "blob:KEY", "package:ID", "https://…", "dir:PATH" (agents
// of this machine only) or "inline:BASE64".
type Source string

// Input is something to put into a container.
type Input struct {
	Source Source `json:"source"`
	// Dir is where the archive is unpacked. tar, tar.gz and zip are known by their content.
	Dir string `json:"dir"`
	// SHA256 of the archive; "": not checked.
	SHA256 string `json:"sha256,omitempty"`
	// Name is for the line "Downloading NAME..."; "": no line.
	Name string `json:"name,omitempty"`
	// Optional: a failure to fetch it is told and passed over.
	Optional bool `json:"optional,omitempty"`
}

// Output is a file to take out of a container when its process has ended.
type Output struct {
	Path string `json:"path"`
	// Key is where Save puts it.
	Key string `json:"key,omitempty"`
	// Name is for the line "Uploading NAME..."; "": no line.
	Name string `json:"name,omitempty"`
	// MaxBytes, if not 0, is the largest size; a larger file fails the work.
	MaxBytes int64 `json:"maxBytes,omitempty"`
	// Inline: the bytes come back in Status.Outputs, not as a blob.
	Inline bool `json:"inline,omitempty"`
	// OnFailure: also taken when the process failed, if it is there.
	OnFailure bool `json:"onFailure,omitempty"`
}

// Health says how the health of an instance is learned.
type Health struct {
	// Type is "port" (the default where Spec has ports: each takes a connection), "http" (a GET on
	// the first port is answered with 200) or "process" (it runs).
	Type string `json:"type,omitempty"`
	// Endpoint is the path that "http" asks for.
	Endpoint string `json:"endpoint,omitempty"`
	// StartTimeout: not healthy by then is a crash. 0: 60 s; negative: no end.
	StartTimeout time.Duration `json:"startTimeout,omitempty"`
	// Steady is how long the instance must have run to be healthy, whatever its probe says: one that ends sooner was
	// never healthy. It counts within StartTimeout. 0 or less: no time.
	Steady time.Duration `json:"steady,omitempty"`
	// Interval between probes once healthy; a failure is a crash. 0: 30 s. The first comes a part
	// of it earlier. Before that it is StartInterval (0: 2 s, with quicker first tries).
	Interval      time.Duration `json:"interval,omitempty"`
	StartInterval time.Duration `json:"startInterval,omitempty"`
	// Timeout of one probe. 0: 1 s.
	Timeout time.Duration `json:"timeout,omitempty"`
	// Readiness, if set, is asked from when the instance is healthy. Until it passes, and while
	// it fails, the instance runs on, but Status.NotReady says that it should get no requests.
	Readiness *Probe `json:"readiness,omitempty"`
}

// Probe says how to ask an instance something.
type Probe struct {
	// Type is "port", "http" or "process" (the default), which always passes.
	Type string `json:"type,omitempty"`
	// Endpoint is the path that "http" asks for, on the first port.
	Endpoint string `json:"endpoint,omitempty"`
	// Interval between probes; 0: 30 s. While they fail it is at most Health.StartInterval.
	Interval time.Duration `json:"interval,omitempty"`
	// Timeout of one probe. 0: 1 s.
	Timeout time.Duration `json:"timeout,omitempty"`
}

// LogTag is what each line of a work is labelled with.
type LogTag struct {
	App    string `json:"app,omitempty"`
	Source string `json:"source,omitempty"` // of the process: "STG", "APP/PROC/WEB"
	Index  int    `json:"index,omitempty"`
}
