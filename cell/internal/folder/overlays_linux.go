package folder

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/dewpoint-go/dewpoint/internal/overlay"
)

// imageRoot, in a container's folder, is where the root of its image is seen.
const imageRoot = "image"

// ImageRoot is where the root of a container's image is mounted.
func ImageRoot(c Place) string { return filepath.Join(c.Dir, imageRoot) }

// Overlays lists what is to be mounted, in this order, so that a container has its layers or its image, and makes the folders that
// take what is written. Those of layers belong to owner, the root of an image to rootOwner; 0: to who runs this program.
func Overlays(c Place, owner, rootOwner int) ([]overlay.Overlay, error) {
	var all []overlay.Overlay
	if c.Image != nil {
		if err := os.MkdirAll(ImageRoot(c), 0o755); err != nil {
			return nil, err
		}
		all = append(all, overlay.Overlay{Root: c.Dir, At: imageRoot, Owner: rootOwner, Lower: []string{c.Image.Dir}})
	}
	for _, p := range byPlace(c.Layers) {
		all = append(all, overlay.Overlay{Root: c.Root, At: p.To[1:], Owner: owner, Lower: p.from})
	}
	for i := range all {
		dir := filepath.Join(c.Dir, OverlayDir, strconv.Itoa(i))
		all[i].Upper, all[i].Work = filepath.Join(dir, "upper"), filepath.Join(dir, "work")
		_, old := os.Lstat(all[i].Upper)
		err := prepare(all[i])
		if err == nil && old != nil && all[i].At == imageRoot {
			err = places(all[i])
		}
		if err != nil {
			return nil, fmt.Errorf("layers at %s: %w", all[i].At, err)
		}
	}
	return all, nil
}

// places makes the folders of a root in which the cell puts something, where the image lacks them: they are its root's, as if that had
// made them.
func places(o overlay.Overlay) error {
	for _, name := range []string{"etc", "run"} {
		if _, err := os.Lstat(filepath.Join(o.Lower[0], name)); err == nil {
			continue
		}
		name = filepath.Join(o.Upper, name)
		if err := os.Mkdir(name, 0o755); err != nil {
			return err
		}
		if o.Owner != 0 {
			if err := os.Chown(name, o.Owner, o.Owner); err != nil {
				return err
			}
		}
	}
	return nil
}

func prepare(o overlay.Overlay) error {
	for _, l := range o.Lower {
		if _, err := os.Stat(l); err != nil {
			return err
		}
	}
	for _, d := range []string{o.Upper, o.Work} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	if o.Owner == 0 {
		return nil
	}
	return errors.Join(os.Chown(o.Upper, o.Owner, o.Owner), os.Chown(o.Work, o.Owner, o.Owner))
}

// place is a folder of a container that shows layers, the lowest first.
type place struct {
	To   string
	from []string
}

// byPlace lists the folders that show layers, one that holds another before that.
func byPlace(all []Layer) (places []place) {
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
