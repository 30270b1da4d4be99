package lifecycle

import (
	"bytes"
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
	reserveFile = ".exit" // becomes exitFile

	reserved = 1024 // bytes; more than an exit takes

	// markEnv names the state folder in the environment of all that an init starts, so that
	// they are found also when that init has vanished.
	markEnv = "DEWPOINT_INIT"
)

// Exit is how a process ended.
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
	// Inner: the numbers are those of a container of which nobody outside has made sense yet.
	Inner bool `json:"inner,omitempty"`
}

func (s started) alive() bool {
	if s.Inner {
		return false
	}
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
	e, err := readExit(dir)
	switch {
	case err == nil:
		st.Exit = &e.Exit
	case !errors.Is(err, os.ErrNotExist):
		return State{}, fmt.Errorf("state of init: %w", err)
	}
	return st, nil
}

// exitRecord is the content of the file "exit".
type exitRecord struct {
	Exit
	// Lost is how many bytes of output are missing at its end.
	Lost uint64 `json:"lost,omitempty"`
}

func readExit(dir string) (e exitRecord, err error) {
	b, err := os.ReadFile(filepath.Join(dir, exitFile))
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(b, &e); err != nil {
		return e, fmt.Errorf("file %s: %w: %w", exitFile, os.ErrNotExist, err)
	}
	return e, nil
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
	if err := json.Unmarshal(b, &s); err != nil { // a power cut has left it
		return s, fmt.Errorf("file %s: %w: %w", startedFile, os.ErrNotExist, err)
	}
	return s, nil
}

// recordStarted writes the file "started" whole or not at all, over what was reserved if it was.
// It need not outlive the machine.
func recordStarted(dir string, s started) error {
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	b = append(b, bytes.Repeat([]byte{' '}, max(0, reserved-len(b)))...) // white space, to JSON
	tmp := filepath.Join(dir, "."+startedFile)
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, filepath.Join(dir, startedFile))
}

// reserveStarted takes the room for the next recordStarted: the process may fill the disk first.
func reserveStarted(dir string) error {
	return os.WriteFile(filepath.Join(dir, "."+startedFile), bytes.Repeat([]byte{' '}, reserved), 0o600)
}

// reserveExit takes the room that the exit will need: the process may fill the disk.
func reserveExit(dir string) error {
	return os.WriteFile(filepath.Join(dir, reserveFile), bytes.Repeat([]byte{' '}, reserved), 0o600)
}

// recordExit writes the exit over what was reserved, and then gives it its name. It is not
// synced, which would make each Stop as slow as the disk: it outlives every program, and what a power
// cut leaves of it is as good as no record, as the process has gone with the machine.
func recordExit(dir string, e Exit, lost uint64) error {
	b, err := json.Marshal(exitRecord{e, lost})
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(dir, reserveFile), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(append(b, bytes.Repeat([]byte{' '}, max(0, reserved-len(b)))...), 0)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, exitFile))
}
