package process

import (
	"log/slog"

	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Config configures [New].
type Config struct {
	// Dir is where the containers are; required, and for one program at a time. It is
	// made if need be, and must allow executing.
	Dir string
	// Program is what offers the roles; nil: it is prepared in Dir from Source.
	Program *lifecycle.Program
	// Source is the executable to prepare; "": that of this process (see lifecycle.Config).
	Source string
	// Env stands before the environment of each process, "K=V". Nil: PATH with the usual
	// folders. HOME and TMPDIR, folders of the container, come before it.
	Env []string
	// Host is the address at which ports are reached; "": "127.0.0.1".
	Host string
	// Memory and Disk in bytes, and Containers, are what is offered; 0: what the machine
	// has, and 250 containers. Nothing enforces them.
	Memory, Disk int64
	Containers   int
	// KeepLayers is how many layers that no container uses stay unpacked; 0: 8; negative: none.
	KeepLayers int
	// KeepBytes is how much all unpacked layers take on the disk before those that no container uses
	// go, the one that was not used for longest first. 0: 10,000,000,000; negative: no bound.
	KeepBytes int64
	// Logger gets what fails in the background; nil discards.
	Logger *slog.Logger
}
