package containerd

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/dewpoint-go/dewpoint/cell/internal/folder"
)

// overlayDir, in a container's folder, is <n>/{upper, work} of the folders that show layers.
const overlayDir = "overlay"

// Open implements folder.Engine: it mounts the overlays through which the layers are seen, and connects what has ports.
func (k *kind) Open(ctx context.Context, c folder.Place) error {
	if k.network != nil && len(c.Spec.Ports) > 0 {
		if err := k.network.connect(ctx, c); err != nil {
			return err
		}
	}
	places := byPlace(c.Layers)
	if len(places) == 0 {
		return nil
	}
	mounted, err := mountsBelow(c.Root)
	if err != nil {
		return err
	}
	for i, p := range places {
		at := filepath.Join(c.Root, p.To)
		if slices.Contains(mounted, at) {
			continue
		}
		if err := k.overlay(c, at, filepath.Join(c.Dir, overlayDir, strconv.Itoa(i)), p.from); err != nil {
			return fmt.Errorf("layers at %s: %w", p.To, err)
		}
	}
	return nil
}

// overlay mounts layers, the lowest first.
func (k *kind) overlay(c folder.Place, at, dir string, layers []string) error {
	for _, l := range layers {
		if _, err := os.Stat(l); err != nil {
			return err
		}
	}
	if err := mkdirOwned(c.Root, at); err != nil {
		return err
	}
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	for _, d := range []string{upper, work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if err := os.Chown(upper, vcap, vcap); err != nil {
		return err
	}
	return mountOverlay(at, upper, work, layers)
}

// mountOverlay mounts layers, the lowest first, with an upper folder over them. The options of mount(2) have to fit in a page, so
// folders are named by descriptors.
func mountOverlay(at, upper, work string, layers []string) error {
	var opened []*os.File
	defer func() {
		for _, f := range opened {
			_ = f.Close() // only names
		}
	}()
	var err error
	name := func(dir string) string {
		f, e := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if e != nil {
			err = errors.Join(err, e)
			return ""
		}
		opened = append(opened, f)
		return fmt.Sprintf("/proc/self/fd/%d", f.Fd())
	}
	var lower []string
	for _, l := range slices.Backward(layers) {
		lower = append(lower, name(l))
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + name(upper) + ",workdir=" + name(work)
	if err != nil {
		return err
	}
	if err := unix.Mount("dewpoint", at, "overlay", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount an overlay at %s: %w; is the folder itself on an overlay, as in a container? Then give one on another file system", at, err)
	}
	return nil
}

// mkdirOwned makes a folder below root, as the user of programs. Nothing runs there yet that could put a link.
func mkdirOwned(root, dir string) error {
	r, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	rel, err := filepath.Rel(root, dir)
	if err != nil {
		return err
	}
	for i, part := 0, strings.Split(rel, "/"); i < len(part); i++ {
		name := strings.Join(part[:i+1], "/")
		err := r.Mkdir(name, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue
		} else if err == nil {
			err = r.Lchown(name, vcap, vcap)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// place is a folder of a container that shows layers, the lowest first.
type place struct {
	To   string
	from []string
}

// byPlace lists the folders that show layers, one that holds another before that.
func byPlace(all []folder.Layer) (places []place) {
	for _, l := range all {
		to := path.Clean("/" + l.To)
		i := slices.IndexFunc(places, func(p place) bool { return p.To == to })
		if i < 0 {
			i, places = len(places), append(places, place{To: to})
		}
		places[i].from = append(places[i].from, l.From)
	}
	slices.SortStableFunc(places, func(a, b place) int {
		return cmp.Compare(strings.Count(a.To, "/"), strings.Count(b.To, "/"))
	})
	return places
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
