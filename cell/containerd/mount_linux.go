package containerd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
)

// Open implements folder.Engine: it mounts the overlays through which the layers are seen, and connects what has ports.
func (k *kind) Open(ctx context.Context, c folder.Place) error {
	if k.network != nil && len(c.Spec.Ports) > 0 {
		if err := k.network.connect(ctx, c); err != nil {
			return err
		}
	}
	if c.Image != nil && k.users != nil {
		if err := folder.HasUser(c, k.users); err != nil {
			return fmt.Errorf("image %s: %w", c.Spec.Image, err)
		}
	} else if c.Image != nil && c.Image.UID == 0 { // it would be the machine's
		return fmt.Errorf("image %s: its user is root: %w by this cell: give another user, or set Config.FirstUser", c.Spec.Image, errors.ErrUnsupported)
	}
	mounted, err := mountsBelow(c.Dir)
	if err != nil {
		return err
	}
	if err := k.disks.bound(ctx, c, mounted); err != nil {
		return err
	}
	all, err := folder.Overlays(c, vcap, k.firstUser())
	if err != nil {
		return err
	}
	for _, o := range all {
		if slices.Contains(mounted, o.Name()) {
			continue
		}
		if err := o.Mount(false); err != nil {
			return err
		}
	}
	return k.disks.trim(c)
}

// mountsBelow lists what is mounted below a folder, in the order of mounting.
func mountsBelow(dir string) (all []string, err error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // it was only read
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		// proc_pid_mountinfo(5): the fifth field, with some bytes in octal.
		fields := strings.Fields(lines.Text())
		if len(fields) < 5 {
			continue
		}
		at := unescape(fields[4])
		if at == dir || strings.HasPrefix(at, dir+"/") {
			all = append(all, at)
		}
	}
	return all, lines.Err()
}

func unescape(s string) string {
	for i := strings.IndexByte(s, '\\'); i >= 0 && i+4 <= len(s); {
		if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
			s = s[:i] + string(byte(n)) + s[i+4:]
		}
		j := strings.IndexByte(s[i+1:], '\\')
		if j < 0 {
			break
		}
		i += 1 + j
	}
	return s
}

// Unmount implements folder.Engine.
func (k *kind) Unmount(dir string) error { return unmountBelow(dir) }

// Overlays implements folder.Engine.
func (k *kind) Overlays() bool { return true }

// View implements folder.Engine: overlays are mounted where all see them.
func (k *kind) View(_ context.Context, c folder.Place) (string, error) {
	if c.Image != nil {
		return folder.ImageRoot(c), nil
	}
	return c.Root, nil
}

// Networks implements folder.Engine.
func (k *kind) Networks() bool { return k.network != nil }

// unmountBelow lets go of all that is mounted at a name or below.
func unmountBelow(dir string) error {
	for range 10 { // one can be over another
		all, err := mountsBelow(dir)
		if err != nil || len(all) == 0 {
			return err
		}
		for _, at := range slices.Backward(all) {
			if err := unix.Unmount(at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
				return fmt.Errorf("unmount %s: %w", at, err)
			}
		}
	}
	return fmt.Errorf("mounts below %s do not go", dir)
}
