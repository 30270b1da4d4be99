package sqlite

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/dewpoint-go/dewpoint/state"
)

// LostError says that a journal's file was taken away while it was open: what was committed is no
// longer there, and nothing can be committed any more. It is a state.ErrFenced.
type LostError struct {
	File   string
	Reason string // "it was deleted"
}

// Error says what happened and what can be done.
func (e *LostError) Error() string {
	return fmt.Sprintf("%s is lost while it is in use: %s; nothing can be kept any more; put a copy of the file back if there is one, and start again", e.File, e.Reason)
}

// Is tells that nothing can be committed any more.
func (e *LostError) Is(target error) bool { return target == state.ErrFenced }

// files are those that hold what was committed: the database, and the log of what is not in it yet. An
// open file that was deleted or replaced takes what is written to it all the same.
type files struct {
	mu   sync.Mutex // guards what follows
	seen []seen
}

type seen struct {
	path string
	info os.FileInfo // nil: it was not there so far
}

func watchFiles(path string) *files {
	return &files{seen: []seen{{path: path}, {path: path + "-wal"}}}
}

// check compares the files with what they were at the last check. None of them ever gets shorter, or is
// removed before the journal is closed.
func (f *files) check() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.seen {
		s := &f.seen[i]
		now, err := os.Stat(s.path)
		switch {
		case errors.Is(err, fs.ErrNotExist) && s.info == nil:
			continue
		case errors.Is(err, fs.ErrNotExist):
			return &LostError{s.path, "it was deleted or moved away"}
		case err != nil:
			continue // whether it is there cannot be told now
		case s.info != nil && !os.SameFile(s.info, now):
			return &LostError{s.path, "another file stands in its place"}
		case s.info != nil && now.Size() < s.info.Size():
			return &LostError{s.path, fmt.Sprintf("it was cut from %d to %d bytes", s.info.Size(), now.Size())}
		}
		s.info = now
	}
	return nil
}
