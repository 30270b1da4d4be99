package folder

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// killKeeper ends the keeper of a container whose folder is at dir, if it has one that this program or an earlier one
// has started. All others have ended by then, so that they could write down how.
func killKeeper(ctx context.Context, dir string) error {
	all, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range all {
		if !strings.HasPrefix(e.Name(), statePrefix) {
			continue
		}
		if k, alive := lifecycle.FindKeeper(filepath.Join(dir, e.Name())); alive {
			err = errors.Join(err, k.Kill(ctx))
		}
	}
	return err
}
