package cell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

// Runtime makes containers on one machine.
//
// All methods may be called by any number of goroutines. The conformance suite is
// celltest.Run.
type Runtime interface {
	// Create makes a container: its root, its private writable view of each layer, its
	// addresses; nothing runs in it yet. All or nothing. The note is durable before Create
	// returns. An ID that exists is an error that wraps fs.ErrExist; a layer that is damaged or
	// may not be unpacked one that wraps *ArchiveError.
	Create(ctx context.Context, c Creation) (Container, error)
	// Containers lists what there is, what survived our own restart included.
	Containers(ctx context.Context) ([]Container, error)
	// Capacity tells what this machine offers in all.
	Capacity(ctx context.Context) (Resources, error)
}

// ArchiveError marks the error of an archive whose bytes are at fault: damaged, or not to be
// unpacked. The same bytes would fail again.
type ArchiveError struct{ Err error }

func (e *ArchiveError) Error() string { return e.Err.Error() }

// Unwrap returns Err.
func (e *ArchiveError) Unwrap() error { return e.Err }

// Creation says what container to make.
type Creation struct {
	// ID names the container: 1 to 128 of a-z, A-Z, 0-9, "-", "_" and ".", and no
	// leading ".".
	ID     string
	Spec   Spec
	Layers []Layer
	// Note is opaque to the Runtime, at most 256 KiB, and given back by Info.
	Note []byte
	// Login, if set, gives the credentials for the registry of Spec.Image; an empty user name: there are none. It is
	// asked only if something has to be fetched, and nothing of it is kept.
	Login func(ctx context.Context) (username, password string, err error)
}

// Layer is a lower, shared, read-only tree, such as a droplet. The container sees a
// private writable view of it at Dir.
type Layer struct {
	Digest string // SHA-256 of the archive, hex; the key under which a Runtime shares it
	Dir    string // where it is seen in the container
	// Open returns the archive (tar, tar.gz or zip). It is called only if the Runtime
	// lacks Digest.
	Open func(context.Context) (io.ReadCloser, error)
}

// Info describes a container.
type Info struct {
	ID      string
	Spec    Spec
	Note    []byte
	Created time.Time
	// Addresses of the Spec's ports, in their order, as seen from this machine.
	Addresses []Address
}

// Address tells where a port of a container is reached.
type Address struct {
	// Port is the port inside the container. Where containers share the machine's network
	// (cell/process) it is the one that the Runtime chose.
	Port int `json:"port"`
	// Host is "host:port" to dial from this machine. If Socket is set, it is what the container calls itself in
	// its own network, and is reached by Dial alone.
	Host string `json:"host"`
	// Socket is the file of this machine's through which the container's own network is reached; "": there is none.
	Socket string `json:"socket,omitempty"`
}

// Container is one container. All methods may be called by any number of goroutines;
// after Destroy they fail with an error that wraps fs.ErrNotExist.
type Container interface {
	Info() Info
	// StreamIn unpacks an archive (tar, tar.gz or zip, known by its content) below dir,
	// which it makes if need be, and reads it to its end. Entries that would leave dir are
	// refused. An archive that is damaged or refused: an error that wraps *ArchiveError.
	StreamIn(ctx context.Context, dir string, archive io.Reader) error
	// StreamOut yields the regular file at path; absent: fs.ErrNotExist. A link that
	// leaves the container is not followed.
	StreamOut(ctx context.Context, path string) (io.ReadCloser, error)
	// Run starts a process. Many can run in one container. stdio's writers get the
	// output as it comes; Running.Wait returns after the last byte. The process outlives
	// ctx: when it ends, its output is no longer delivered. A Process.ID that is running
	// or has run is an error that wraps fs.ErrExist.
	Run(ctx context.Context, p Process, stdio IO) (Running, error)
	// Destroy ends all processes at once and removes everything. Idempotent; it works
	// also if ctx ends midway and it is called again.
	Destroy(ctx context.Context) error
}

// Attacher is a power of containers that outlive the program that made them: to find a
// process that was started before, by its Process.ID, and all of its output from the
// beginning, as far as it is kept. A process that ended meanwhile is found too, with its true exit.
// Absent: fs.ErrNotExist. Output is delivered until ctx ends.
type Attacher interface {
	Attach(ctx context.Context, processID string, stdio IO) (Running, error)
}

// Pather is a power of containers whose paths are not the container's own: it tells what
// a container path is called by the processes inside. cell/process has it: "/tmp/app"
// becomes a folder of the instance.
type Pather interface {
	Path(containerPath string) string
}

// IO receives a process's output. A nil writer discards. Writers must not block for long.
// One that is a [Stamper] is told when the output came, where the Runtime knows it.
type IO struct {
	Stdout, Stderr io.Writer
}

// Stamper is a power of a writer in [IO]: Stamp is Write, of bytes that the process printed at
// that time. It matters where a process is found that has run unwatched.
type Stamper interface {
	Stamp(at time.Time, p []byte) (int, error)
}

// Running is a process that was started.
type Running interface {
	// Wait returns when the process has ended and its output was delivered, or with an
	// error when ctx ends or its end cannot be learned. Any number of callers.
	Wait(ctx context.Context) (Exit, error)
	// Signal sends "TERM", "KILL", "INT", "HUP", "QUIT", "USR1" or "USR2" to the process and the processes
	// it started. To a process that has ended: nil.
	Signal(ctx context.Context, name string) error
}

// Execer is a power of containers: a process beside those of the work, for who sits before it, as a person's shell is. Its
// input and output are the caller's. It lasts no longer than its Session and the program that has asked for it, it is
// not found by Attach, and what it takes counts for the limits of the container. The Process's ID and Grace are not used. Where
// it cannot be: errors.ErrUnsupported.
type Execer interface {
	// Exec starts the process; ctx is for that alone. With a size it has a terminal, of its own; nil: pipes. A program that cannot be run
	// is an error. Close the Session.
	Exec(ctx context.Context, p Process, size *TerminalSize) (Session, error)
}

// TerminalSize is that of a terminal; 0 columns or rows are not known to programs.
type TerminalSize struct {
	Columns uint16 `json:"columns"`
	Rows    uint16 `json:"rows"`
}

// Session is a process of Exec. Its methods may be called by several goroutines at a time.
type Session interface {
	// Running is how it is waited for and signalled; what it has written may be still to be read then.
	Running
	// Stdin is what the process reads. Close ends that; of a terminal it types what stands for the end (Ctrl-D).
	Stdin() io.WriteCloser
	// Stdout and Stderr are what the process writes, to their ends; if nobody reads, it waits. With a terminal Stdout is all.
	Stdout() io.Reader
	Stderr() io.Reader
	// Resize sets the size of its terminal; without one: errors.ErrUnsupported.
	Resize(TerminalSize) error
	// Close ends the process with all that it has started, if it still runs, and what reads and writes, and waits for that.
	// Idempotent.
	Close() error
}

// Exit is how a process ended.
type Exit struct {
	// Code is the exit status; 128 + the signal's number if a signal ended it.
	Code int `json:"code"`
	// Signal is the name of the signal that ended it ("KILL"), else "".
	Signal string `json:"signal,omitempty"`
	// OutOfMemory tells that the memory limit ended it.
	OutOfMemory bool      `json:"outOfMemory,omitempty"`
	Time        time.Time `json:"time"`
}

// Resources is what a machine has, or what work takes of it.
type Resources struct {
	Memory     int64 `json:"memory"` // bytes
	Disk       int64 `json:"disk"`   // bytes
	Containers int   `json:"containers"`

	// The rest describes a Runtime and is not counted.

	// Isolation is the level: "memory", "none", "landlock", "namespaces" or "containerd".
	Isolation string `json:"isolation,omitempty"`
	// Enforced names the limits that are enforced: "memory", "disk", "pids", "cpu", "nofile".
	Enforced []string `json:"enforced,omitempty"`
	// Networks tells that each container has a network of its own, in which nothing but it is.
	Networks bool `json:"networks,omitempty"`
	// Survives tells that containers outlive the program that made them.
	Survives bool `json:"survives,omitempty"`
	// Stacks that are offered.
	Stacks []string `json:"stacks,omitempty"`
	// Images tells that works with a Spec.Image are run.
	Images bool `json:"images,omitempty"`
}

// MaxNote is the size in bytes that every Runtime keeps as a Creation's Note.
const MaxNote = 256 << 10

// CheckID tells whether id has the form of Creation.ID and Work.ID.
func CheckID(id string) error {
	bad := len(id) == 0 || len(id) > 128 || id[0] == '.'
	for i := 0; i < len(id) && !bad; i++ {
		switch b := id[i]; {
		case b >= 'a' && b <= 'z', b >= 'A' && b <= 'Z', b >= '0' && b <= '9', b == '-', b == '_', b == '.':
		default:
			bad = true
		}
	}
	if bad {
		return fmt.Errorf("%q: %w: use 1 to 128 of a-z, A-Z, 0-9, \"-\", \"_\" and \".\", not beginning with \".\"", id, errBadID)
	}
	return nil
}

var errBadID = errors.New("not a valid id")

// FirstUser is the first user and group of a machine whom nobody has there, for images that have 65,536 of their own (sandbox.Config.FirstUser,
// containerd.Config.FirstUser, oci.RootsConfig.FirstUser), where nothing else is said: the first number above those that
// systemd gives to containers (https://systemd.io/UIDS-GIDS).
const FirstUser = 0x70000000

// ImageRoots gives a Runtime the root filesystems of the images that it runs. droplet/oci.Roots is one. Its methods may be called by
// any number of goroutines.
type ImageRoots interface {
	// Root returns the directory of an image's root filesystem, which is not changed, and which stays until release was called. An
	// image that is named by its digest is unpacked once. Login gives credentials, if something has to be fetched (see Creation.Login);
	// it may be nil.
	Root(ctx context.Context, image string, login func(context.Context) (username, password string, err error)) (dir string, release func(), err error)
	// Hold is Root for a directory that an earlier program got; fs.ErrNotExist: it is not there any more.
	Hold(dir string) (release func(), err error)
	// Collect removes what nobody holds, and nobody has held since then.
	Collect(then time.Time) error
}
