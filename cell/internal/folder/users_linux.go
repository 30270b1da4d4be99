package folder

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"github.com/dewpoint-go/dewpoint/internal/jail"
)

// HasUser refuses an image of whom there cannot be the user among those, or whose files are of others.
func HasUser(c Place, among *jail.Users) error {
	if n := max(c.Image.UID, c.Image.GID); n >= among.Count {
		return fmt.Errorf("its user or group is number %d: %w by this cell: its images have 0 to %d", n, errors.ErrUnsupported, among.Count-1)
	}
	info, err := os.Stat(c.Image.Dir)
	if err != nil {
		return err
	}
	if owner := int(info.Sys().(*syscall.Stat_t).Uid); owner < among.First || owner >= among.First+among.Count {
		return fmt.Errorf("its files belong to user %d of this machine, and this cell's images begin with user %d: set FirstUser where they are unpacked, "+
			"as oci.RootsConfig has it, and take another folder for them", owner, among.First)
	}
	return nil
}
