package lifecycle

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	startedFile = "started"
	exitFile    = "exit"

	// markEnv names the state folder in the environment of all that an init starts, so that
	// they are found also when that init has vanished.
	markEnv = "DEWPOINT_INIT"
)

// Exit is how a process ended. It is the content of the file "exit" in the state folder.
type Exit struct {
	// Code is the exit status; 128 + the signal's number if a signal ended it; 127 if there is
	// no such program, 126 if it cannot be run.
	Code int `json:"code"`
	// Signal is the name of the signal that ended it ("KILL"), else "".
	Signal string    `json:"signal,omitempty"`
	Time   time.Time `json:"time"`
}

// State is what is known of an init and its process.
type State struct {
	PID     int  // of init
	Process int  // PID of the process; 0 if it was not started yet
	Alive   bool // init runs: the PID is not another's that took its number
	Started time.Time
	Exit    *Exit // nil: not ended, or, if not Alive, not recorded
}

// started is the file of that name. A PID with its start time and the machine's boot names a
// process for ever.
type started struct {
	PID          int       `json:"pid"`
	Start        uint64    `json:"start,omitempty"`
	Boot         string    `json:"boot,omitempty"`
	Process      int       `json:"process,omitempty"`
	ProcessStart uint64    `json:"processStart,omitempty"`
	Time         time.Time `json:"time"`
}

func (s started) alive() bool {
	start, ok := processStart(s.PID)
	return ok && start == s.Start && s.Boot == bootID()
}

// InitState reads the state folder of an init. If none was started there, the error is
// fs.ErrNotExist.
func InitState(dir string) (State, error) {
	s, err := readStarted(dir)
	if err != nil {
		return State{}, fmt.Errorf("state of init: %w", err)
	}
	st := State{PID: s.PID, Process: s.Process, Started: s.Time, Alive: s.alive()}
	// After the look at the process: an init that has ended has recorded the exit before.
	b, err := os.ReadFile(filepath.Join(dir, exitFile))
	switch {
	case err == nil:
		st.Exit = new(Exit)
		if err := json.Unmarshal(b, st.Exit); err != nil {
			return State{}, fmt.Errorf("state of init: file %s: %w", exitFile, err)
		}
	case !errors.Is(err, os.ErrNotExist):
		return State{}, fmt.Errorf("state of init: %w", err)
	}
	return st, nil
}

// SignalInit sends sig (SIGTERM, SIGKILL, SIGINT, SIGHUP, SIGQUIT, SIGUSR1 or SIGUSR2) to the
// process of an init and to its process group. SIGKILL ends all that the process has
// started, and also what is left of a process whose init vanished (on Linux whatever its
// session, unless it hides its environment); init records the exit as usual.
// To a process that has ended: nil.
func SignalInit(dir string, sig syscall.Signal) error {
	s, err := readStarted(dir)
	if err != nil {
		return fmt.Errorf("signal init: %w", err)
	}
	if s.alive() {
		err = signalProcess(s.PID, initSignal(sig))
	} else if _, e := os.Stat(filepath.Join(dir, exitFile)); e != nil && sig == syscall.SIGKILL && s.Boot == bootID() {
		if dir, err = filepath.Abs(dir); err == nil {
			err = killLeft(s, dir)
		}
	}
	if err != nil {
		return fmt.Errorf("signal init %d: %w", s.PID, err)
	}
	return nil
}

func readStarted(dir string) (s started, err error) {
	b, err := os.ReadFile(filepath.Join(dir, startedFile))
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("file %s: %w", startedFile, err)
	}
	return s, nil
}

// record writes a file of the state folder whole or not at all.
func record(dir, name string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	if _, err = f.Write(b); err == nil && name == exitFile {
		err = f.Sync() // started need not outlive the machine
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}
