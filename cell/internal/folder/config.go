package folder

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"strconv"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Config configures [New]. Its fields are those of process.Config, which says what they mean.
type Config struct {
	Kind Kind
	// Images gives the root filesystems of images; nil: none are run. Only an Engine can.
	Images cell.ImageRoots

	Dir          string
	Program      *lifecycle.Program
	Source       string
	Env          []string
	Host         string
	Memory, Disk int64
	Containers   int
	KeepLayers   int
	KeepBytes    int64
	Logger       *slog.Logger
}

// Kind is what differs between the cells.
type Kind interface {
	// Describe sets what Capacity tells of isolation and limits.
	Describe(*cell.Resources)
	// Check refuses what it cannot run. The sentence goes on after "create container ID: ".
	Check(cell.Spec) error
	// Writable tells whether a path of a container is its own and not a part of a stack.
	Writable(s cell.Spec, path string) error
	// Path is what a path of a container is called inside.
	Path(root, path string) string
	// Start starts the init of a process. Ended closes when that has ended; nil: it is to be asked for.
	Start(ctx context.Context, p *lifecycle.Program, c Place, s Start) (ended <-chan struct{}, err error)
	// Owner is who shall own the files of containers, as far as they are not made by processes
	// there; ok is false if that is who runs this program. Of is the image of a container; nil: it has a stack.
	Owner(of *Image) (uid int, ok bool)
}

// Engine is a power of a Kind whose containers are more than folders with processes.
type Engine interface {
	// Open makes what a container has beside its folder, as far as it is not there. It is called for each that was made or
	// found.
	Open(ctx context.Context, c Place) error
	// Overlays tells whether Open also shows the layers where they shall be seen; else each container has a copy of its own.
	Overlays() bool
	// View is what "/" of a container's own files is called where this program is.
	View(ctx context.Context, c Place) (string, error)
	// Addresses are those of its ports; nil if it is reached at ports of this machine.
	Addresses(c Place) []cell.Address
	// Networks tells whether containers have networks of their own.
	Networks() bool
	// Root is a directory of Config.Images that a container needs beside its image, as its stack; "": none.
	Root(s cell.Spec) string
	// Unmount lets go of what killed programs have left mounted below a folder.
	Unmount(dir string) error
	// End ends what runs and removes what Open and Start have made. Idempotent, also after a failure.
	End(ctx context.Context, c Place) error
	// Usage adds to what is known of what a container takes: its processes, and what /proc tells of them.
	Usage(c Place, u *cell.Usage)
	// Exit adds to what init has recorded of the end of a process, whose state is in that folder.
	Exit(c Place, state string, e *cell.Exit)
}

// Limiter is a power of a Kind that limits a container by something that is there beside its folder, such as [Groups].
type Limiter interface {
	// Lift ends what is left of a container of that Key, and removes what limited it. Idempotent.
	Lift(key string) error
	// Keep is told which containers were found, and lifts all others.
	Keep(all []Place) error
	// Usage and Exit are those of an Engine.
	Usage(c Place, u *cell.Usage)
	Exit(c Place, state string, e *cell.Exit)
}

// meter is what an Engine and a Limiter know of processes.
type meter interface {
	Usage(c Place, u *cell.Usage)
	Exit(c Place, state string, e *cell.Exit)
}

// Place is a container of an Engine.
type Place struct {
	ID   string
	Key  string // no other container has had it, also none of this ID: letters and digits
	Dir  string // its folder
	Root string // what "/" is of what is its own
	// States is the folder of the states of its processes.
	States string
	Spec   cell.Spec
	Layers []Layer
	Image  *Image // nil: it has a stack
	// New tells an Engine's Open that the container was just made; then Taken is how many bytes its layers are, which count for its disk.
	New   bool
	Taken int64
}

// Image is the root filesystem of an image, and whose a container's programs are in it.
type Image struct {
	Dir string `json:"dir"`
	UID int    `json:"uid"`
	GID int    `json:"gid"`
}

// OverlayDir, in a container's folder, is <n>/{upper, work} of what an Engine shows by overlays.
const OverlayDir = "overlay"

// Layer is an unpacked archive, which several containers share.
type Layer struct {
	From string
	To   string // a path of the container
}

// Start is a process to start.
type Start struct {
	Spec    cell.Spec
	Root    string // the folder of the container
	State   string // the folder of its init
	Dir     string // as the container calls it
	NoFile  uint64 // 0: as this program
	Process cell.Process
	Env     []string // of every process of the cell
	// Line, if not nil, is the init's end of a line (lifecycle.OpenLine).
	Line *os.File
}

// Flags are those of an init that its State, NoFile and Line ask for. The role calls its state by that name.
func (s Start) Flags(state string) []string {
	flags := []string{"-state", state}
	if s.NoFile > 0 {
		flags = append(flags, "-nofile", strconv.FormatUint(s.NoFile, 10))
	}
	if s.Line != nil {
		flags = append(flags, "-line")
	}
	return flags
}

// errStack is the end of Writable's sentences.
var errStack = errors.New("it is a part of the stack, which is read-only: use /home/vcap, /tmp or a folder of its own")

// ReadOnly is an error of [Kind] Writable.
func ReadOnly() error { return errStack }
