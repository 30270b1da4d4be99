package oci

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime"

	"github.com/google/go-containerregistry/pkg/authn"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// Config of a [Client].
type Config struct {
	// Launcher is the path of the static lifecycle program that images get. Only Export needs it.
	Launcher string
	// Dir is where layers lie while an image is made. "": that of os.MkdirTemp. An image that
	// is written as a layout is made in place.
	Dir string
	// Platform is chosen where there are several, and is that of an image on a directory:
	// os/architecture[/variant]. "": linux and this machine's architecture.
	Platform string
	// Level of compression of layers, 1 to 9. 0: 1, as most of the time of an export is theirs.
	Level int
	// MaxDroplet is how many bytes the layer of a droplet may inflate to, names and all, when it is imported. 0: 4 GiB; negative: no bound.
	MaxDroplet int64
	// Keychain logs in to registries. nil: without login.
	Keychain authn.Keychain
	// Transport is used for registries. nil: the registry client's own.
	Transport http.RoundTripper
	// Insecure allows plain HTTP also to hosts that are not this machine.
	Insecure bool
}

// Client exports, imports and rebases. Its methods may be called from many goroutines.
type Client struct {
	c        Config
	platform v1.Platform
}

// New checks a Config. It starts nothing.
func New(c Config) (*Client, error) {
	if c.Level == 0 {
		c.Level = 1
	}
	if c.Level < 1 || c.Level > 9 {
		return nil, fmt.Errorf("oci: Config.Level is %d: give 1 to 9", c.Level)
	}
	if c.Keychain == nil {
		c.Keychain = authn.NewMultiKeychain() // knows nobody
	}
	cl := &Client{c: c, platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}}
	if c.Platform != "" {
		p, err := v1.ParsePlatform(c.Platform)
		if err != nil || p.OS == "" || p.Architecture == "" {
			return nil, fmt.Errorf("oci: Config.Platform is %q: give os/architecture", c.Platform)
		}
		cl.platform = *p
	}
	return cl, nil
}

// App is how the app in an image is started.
type App struct {
	// Start is the start command. "": that of the droplet.
	Start string `json:"start,omitempty"`
	// Env is NAME=VALUE, added to what every app has (PORT, VCAP_…, LANG, USER) and overriding it.
	// Whoever can pull the image can read it.
	Env []string `json:"env,omitempty"`
	// Port is PORT, and exposed. 0: 8080.
	Port int `json:"port,omitempty"`
}

// ExportRequest says what [Client.Export] makes.
type ExportRequest struct {
	// Droplet is the path of a tar.gz.
	Droplet string
	// Stack is the place of the root filesystem.
	Stack string
	// To is the place of the image: a registry, oci: or docker-archive:.
	To string
	// Name is written into layouts and archives, as NAME:TAG. "": dewpoint/app:latest.
	Name string
	App  App
}

// Image is what Export and Rebase have made.
type Image struct {
	// Digest of the manifest, sha256:…
	Digest string
	// Ref is the image by its digest: To, with the tag replaced.
	Ref string
	// Stack is the digest of the stack's manifest; "" for a directory.
	Stack string
	// Droplet is the SHA-256 of the droplet, in hex.
	Droplet string
}

// Export makes an image of a droplet and a stack. The image is in its place when Export
// returns without an error; a registry or layout may have got some of its blobs otherwise.
func (c *Client) Export(ctx context.Context, r ExportRequest) (Image, error) {
	img, err := c.export(ctx, r)
	if err != nil {
		return Image{}, fmt.Errorf("export %s: %w", r.Droplet, err)
	}
	return img, nil
}

func (c *Client) export(ctx context.Context, r ExportRequest) (Image, error) {
	if c.c.Launcher == "" {
		return Image{}, errors.New("Config.Launcher is not set: build lifecycle/cmd/dewpoint-lifecycle with CGO_ENABLED=0 and give its path")
	}
	w, done, err := c.workshop(r.To)
	if err != nil {
		return Image{}, err
	}
	defer done()
	base, err := c.stack(ctx, w, r.Stack)
	if err != nil {
		return Image{}, fmt.Errorf("stack %s: %w", r.Stack, err)
	}
	launcher, err := w.launcherLayer(ctx, c.c.Launcher)
	if err != nil {
		return Image{}, fmt.Errorf("launcher %s: %w", c.c.Launcher, err)
	}
	bits, sum, err := w.dropletLayer(ctx, r.Droplet)
	if err != nil {
		return Image{}, err
	}
	return c.finish(ctx, base, launcher, bits, label{Droplet: sum, App: r.App}, r.To, r.Name)
}

// RebaseRequest says what [Client.Rebase] makes.
type RebaseRequest struct {
	// From is the place of an image that Export made.
	From string
	// Stack is the place of the new root filesystem.
	Stack string
	// To and Name are those of an ExportRequest.
	To, Name string
}

// Rebase makes the image that Export would make of the same droplet and launcher on another
// stack. The droplet is not looked at: its layer is the same blob.
func (c *Client) Rebase(ctx context.Context, r RebaseRequest) (Image, error) {
	img, err := c.rebase(ctx, r)
	if err != nil {
		return Image{}, fmt.Errorf("rebase %s: %w", r.From, err)
	}
	return img, nil
}

func (c *Client) rebase(ctx context.Context, r RebaseRequest) (Image, error) {
	old, err := c.open(ctx, r.From)
	if err != nil {
		return Image{}, err
	}
	p, err := parts(old)
	if err != nil {
		return Image{}, err
	}
	w, done, err := c.workshop(r.To)
	if err != nil {
		return Image{}, err
	}
	defer done()
	base, err := c.stack(ctx, w, r.Stack)
	if err != nil {
		return Image{}, fmt.Errorf("stack %s: %w", r.Stack, err)
	}
	return c.finish(ctx, base, p.launcher, p.droplet, p.label, r.To, r.Name)
}

// workshop is where layers are made.
type workshop struct {
	dir   string
	keep  bool // under their digests: dir is the blobs of a layout
	level int
}

// workshop makes it; done removes what is not part of a layout.
func (c *Client) workshop(to string) (w workshop, done func(), err error) {
	if dir, ok := layoutDir(to); ok {
		w = workshop{dir: blobsDir(dir), keep: true, level: c.c.Level}
		return w, func() {}, os.MkdirAll(w.dir, 0o755)
	}
	dir, err := os.MkdirTemp(c.c.Dir, "dewpoint-oci-")
	if err != nil {
		return w, nil, err
	}
	return workshop{dir: dir, level: c.c.Level}, func() { _ = os.RemoveAll(dir) }, nil
}
