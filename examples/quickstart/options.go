package main

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/cell/containerd"
	"github.com/dewpoint-go/dewpoint/cell/local"
)

// complete fills in what was not given, and checks the rest.
func (o *options) complete() error {
	if o.image != "" && o.app != "" {
		return errors.New("-image and -app: give one of them")
	}
	if o.once && o.shell {
		return errors.New("-once and -shell: give one of them")
	}
	if o.user != "" && o.image == "" {
		return errors.New("-user is for images (-image)")
	}
	if o.app == "" && o.image == "" {
		o.app = filepath.Join("examples", "apps", "hello-go")
		if _, err := os.Stat(o.app); err != nil {
			return fmt.Errorf("-app: give the folder of an app (the default %s is found only in Dewpoint's own checkout)", o.app)
		}
	}
	app, err := filepath.Abs(o.app)
	if err != nil {
		return err
	}
	if _, err := os.Stat(app); err != nil && o.image == "" {
		return fmt.Errorf("-app: %w; give the folder of an app", err)
	}
	if _, ok := cells[o.cell]; !ok {
		return fmt.Errorf("-cell: there is no kind %q; give one of %s", o.cell, strings.Join(slices.Sorted(maps.Keys(cells)), ", "))
	}
	if o.image != "" && cells[o.cell] == local.None {
		return fmt.Errorf("-cell %s: such a cell has no root filesystem for an image; give -cell sandbox or %s", o.cell, containerd.Isolation)
	}
	for i, dir := range o.share {
		if o.share[i], err = filepath.Abs(dir); err != nil {
			return err
		}
		if _, err := os.Stat(dir); err != nil {
			return fmt.Errorf("-share: %w; give a folder that is there", err)
		}
	}
	if o.image == "" {
		if err := o.completeBuildpacks(); err != nil {
			return err
		}
	}
	if err := o.completeData(app); err != nil {
		return err
	}
	if o.instances < 1 {
		return fmt.Errorf("-instances: %d; the check needs one at least", o.instances)
	}
	if o.image != "" { // the last part, without tag and digest
		name, _, _ := strings.Cut(path.Base(o.image), "@")
		app, _, _ = strings.Cut(name, ":")
	}
	o.name = cmp.Or(o.name, nameOf(app))
	o.req = dewpoint.PushRequest{
		Name: o.name, Path: o.app, Image: o.image, User: o.user, Instances: &o.instances, Env: o.env, Buildpacks: o.buildpacks, Command: o.command,
		Replace: true, // these flags are all there is to say
	}
	if o.req.Memory, err = dewpoint.ParseBytes(o.memory); err != nil {
		return fmt.Errorf("-memory: %w", err)
	}
	if o.req.Disk, err = dewpoint.ParseBytes(o.disk); err != nil {
		return fmt.Errorf("-disk: %w", err)
	}
	return o.req.Validate()
}

// nameOf makes an app's name of its folder's.
func nameOf(app string) string {
	base := filepath.Base(app)
	if fi, err := os.Stat(app); err == nil && !fi.IsDir() {
		base = strings.TrimSuffix(base, filepath.Ext(base))
	}
	name := strings.Map(func(r rune) rune {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '-', r == '_', r == '.':
			return r
		}
		return '-'
	}, strings.ToLower(base))
	name = strings.TrimLeft(name, "-.")
	return cmp.Or(name[:min(len(name), 63)], "app")
}

func (o *options) completeBuildpacks() error {
	if o.catalogue != "" {
		if fi, err := os.Stat(o.catalogue); err != nil || !fi.IsDir() {
			return fmt.Errorf("-buildpacks: %s is no folder; give one with a buildpack in each subfolder", o.catalogue)
		}
		return nil
	}
	o.catalogue = filepath.Join("examples", "buildpacks")
	if _, err := os.Stat(o.catalogue); err != nil {
		o.catalogue = ""
		if len(o.buildpacks) == 0 {
			return fmt.Errorf("-buildpack: give a folder, zip or URL of a buildpack that can build %s (those of examples/buildpacks are found only in Dewpoint's own checkout)", o.app)
		}
	}
	return nil
}

func (o *options) completeData(app string) error {
	if o.data == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return fmt.Errorf("-data: this user has no folder for caches (%w); give a folder", err)
		}
		o.data = filepath.Join(cache, "dewpoint-quickstart")
	}
	data, err := filepath.Abs(o.data)
	if err != nil {
		return err
	}
	if rel, err := filepath.Rel(app, data); o.image == "" && err == nil && filepath.IsLocal(rel) {
		return fmt.Errorf("-data: %s lies inside the app's folder and would be pushed with it; give a folder elsewhere", o.data)
	}
	return nil
}
