package oci

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// labelName is the label that holds a label, as JSON.
const labelName = "io.github.dewpoint-go.app"

// label is what an image says of itself: enough for the way back, and for another stack.
type label struct {
	Droplet string    `json:"droplet"` // SHA-256, in hex
	Layers  []v1.Hash `json:"layers"`  // diff ids of launcher and droplet
	App     App       `json:"app"`
}

// ErrForeign is the error for images that Export has not made.
var ErrForeign = errors.New("it is not an image that was made of a droplet")

// app is the parts of such an image that do not depend on its stack.
type app struct {
	launcher, droplet v1.Layer
	diff              v1.Hash // of the droplet's layer
	label             label
}

func parts(img v1.Image) (app, error) {
	cf, err := img.ConfigFile()
	if err != nil {
		return app{}, err
	}
	text := cf.Config.Labels[labelName]
	if text == "" {
		return app{}, ErrForeign
	}
	var a app
	if err := json.Unmarshal([]byte(text), &a.label); err != nil {
		return app{}, fmt.Errorf("%w: its label %s: %w", ErrForeign, labelName, err)
	}
	layers, diffs, err := layersOf(img)
	if err != nil {
		return app{}, err
	}
	n := len(layers)
	if n < 2 || !slices.Equal(a.label.Layers, diffs[n-2:]) {
		return app{}, fmt.Errorf("%w: its last layers are not those that its label names", ErrForeign)
	}
	a.launcher, a.droplet, a.diff = layers[n-2], layers[n-1], diffs[n-1]
	return a, nil
}

// finish joins the parts and writes the image.
func (c *Client) finish(ctx context.Context, base v1.Image, launcher, bits v1.Layer, l label, to, called string) (Image, error) {
	img, stack, err := join(base, launcher, bits, l)
	if err != nil {
		return Image{}, err
	}
	digest, err := img.Digest()
	if err != nil {
		return Image{}, err
	}
	ref, err := c.put(ctx, img, to, called)
	if err != nil {
		return Image{}, fmt.Errorf("write %s: %w", to, err)
	}
	return Image{Digest: digest.String(), Ref: ref, Stack: stack, Droplet: l.Droplet}, nil
}

// join is pure but for what it reads of base.
func join(base v1.Image, launcher, bits v1.Layer, l label) (v1.Image, string, error) {
	digest, err := base.Digest()
	if err != nil {
		return nil, "", err
	}
	media, err := base.MediaType()
	if err != nil {
		return nil, "", err
	}
	layer := types.OCILayer
	if media == types.DockerManifestSchema2 {
		layer = types.DockerLayer
	}
	img, err := mutate.Append(base,
		mutate.Addendum{Layer: as{launcher, layer}, History: v1.History{Created: epoch, CreatedBy: "dewpoint: launcher"}},
		mutate.Addendum{Layer: as{bits, layer}, History: v1.History{Created: epoch, CreatedBy: "dewpoint: droplet"}})
	if err != nil {
		return nil, "", err
	}
	cf, err := img.ConfigFile()
	if err != nil {
		return nil, "", err
	}
	n := len(cf.RootFS.DiffIDs)
	l.Layers = cf.RootFS.DiffIDs[n-2:]
	if cf, err = configure(cf.DeepCopy(), l); err != nil {
		return nil, "", err
	}
	if img, err = mutate.ConfigFile(img, cf); err != nil {
		return nil, "", err
	}
	if media != types.DockerManifestSchema2 { // Docker's manifests have no annotations
		img = mutate.Annotations(img, map[string]string{"org.opencontainers.image.base.digest": digest.String()}).(v1.Image)
	}
	return img, digest.String(), nil
}

// configure says how the app is started. Of the stack's configuration its environment and labels remain.
func configure(cf *v1.ConfigFile, l label) (*v1.ConfigFile, error) {
	text, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	port := strconv.Itoa(l.App.Port)
	if l.App.Port == 0 {
		port = "8080"
	}
	env := cf.Config.Env
	if !slices.ContainsFunc(env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		env = append(env, "PATH=/usr/local/bin:/usr/bin:/bin")
	}
	env = override(env, "LANG=en_US.UTF-8", "USER=vcap", "PORT="+port, "VCAP_APP_PORT="+port, "VCAP_APP_HOST=0.0.0.0",
		"VCAP_APPLICATION={}", "VCAP_SERVICES={}")
	for _, e := range l.App.Env {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			return nil, fmt.Errorf("environment %q: give NAME=VALUE", name)
		}
	}
	labels := map[string]string{labelName: string(text)}
	for k, v := range cf.Config.Labels {
		if k != labelName {
			labels[k] = v
		}
	}
	cf.Created, cf.Author, cf.Container = epoch, "", ""
	cf.Config = v1.Config{
		User: "2000:2000", WorkingDir: "/" + home + "app", Env: override(env, l.App.Env...),
		Entrypoint: []string{"/" + launcherDir + "launcher", "/" + home + "app"}, Cmd: []string{l.App.Start},
		ExposedPorts: map[string]struct{}{port + "/tcp": {}}, Labels: labels,
	}
	if l.App.Start == "" {
		cf.Config.Cmd = nil // the launcher takes the droplet's
	}
	return cf, nil
}

// override sets variables where they stand, or adds them.
func override(env []string, set ...string) []string {
	env = slices.Clone(env)
	for _, s := range set {
		name, _, _ := strings.Cut(s, "=")
		i := slices.IndexFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		if i < 0 {
			env = append(env, s)
		} else {
			env[i] = s
		}
	}
	return env
}
