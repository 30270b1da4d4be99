package image

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/dewpoint-go/dewpoint/staging"
)

// What an image may have at most. A registry must take manifests of 4 MiB (OCI distribution spec); 127 layers are what
// docker and overlays in general can stack.
const (
	maxManifest  = 4 << 20
	maxConfig    = 8 << 20
	maxLayers    = 127
	maxPlatforms = 1000
	maxSettings  = 64 << 10 // bytes of environment and command
)

var indexTypes = []types.MediaType{types.OCIImageIndex, types.DockerManifestList}

var imageTypes = []types.MediaType{types.OCIManifestSchema1, types.DockerManifestSchema2}

var schema1 = []types.MediaType{types.DockerManifestSchema1, types.DockerManifestSchema1Signed}

// dockerZstd is a layer as newer dockers may write it.
const dockerZstd types.MediaType = "application/vnd.docker.image.rootfs.diff.tar.zstd"

// accepted is what can be answered. Schema 1 is named to be told from what is absent.
var accepted = func() string {
	var all []string
	for _, t := range slices.Concat(indexTypes, imageTypes, schema1) {
		all = append(all, string(t))
	}
	return strings.Join(all, ", ")
}()

// manifest is one of the two.
type manifest struct {
	digest string
	image  *v1.Manifest
	index  *v1.IndexManifest
}

// head asks what the reference names now.
func (s *session) head(ctx context.Context) (string, error) {
	a, err := s.try(ctx, s.places[0], request{method: http.MethodHead, kind: "manifests", id: s.ref.Identifier(), accept: accepted})
	if err != nil {
		return "", err
	}
	d := a.header.Get("Docker-Content-Digest")
	if d == "" {
		return "", fmt.Errorf("%s tells no digest", s.places[0].host)
	}
	return d, nil
}

// manifest asks for a manifest. Its digest is what its bytes have, whatever else is said.
func (s *session) manifest(ctx context.Context, id, digest string) (manifest, error) {
	a, err := s.get(ctx, request{kind: "manifests", id: id, digest: digest, accept: accepted, limit: maxManifest})
	if err != nil {
		return manifest{}, err
	}
	m, err := readManifest(a.body, a.header.Get("Content-Type"))
	if err != nil {
		return m, err
	}
	if m.digest = digest; digest == "" {
		m.digest, err = digestOf("sha256:"+strings.Repeat("0", 64), a.body)
	}
	return m, err
}

// readManifest reads a manifest or an index. contentType decides, unless it says nothing.
func readManifest(b []byte, contentType string) (m manifest, err error) {
	// What is both to two readers is neither: CVE-2021-41190.
	var shape struct {
		MediaType types.MediaType   `json:"mediaType"`
		Schema    int               `json:"schemaVersion"`
		Manifests []json.RawMessage `json:"manifests"`
		Layers    []json.RawMessage `json:"layers"`
		Config    json.RawMessage   `json:"config"`
		History   []json.RawMessage `json:"history"`
		FSLayers  []json.RawMessage `json:"fsLayers"`
	}
	if err := json.Unmarshal(b, &shape); err != nil {
		return m, &fault{reason: staging.ImageInvalid, text: "its manifest is damaged: " + oneLine(err.Error()), cure: "push the image anew", err: err}
	}
	kind, _, _ := strings.Cut(contentType, ";")
	t := types.MediaType(strings.TrimSpace(kind))
	known := slices.Concat(indexTypes, imageTypes, schema1)
	switch {
	case shape.Schema == 1 || slices.Contains(schema1, t) || len(shape.FSLayers) > 0:
		return m, invalidf("its manifest is of schema 1, which is of before 2016", "push the image anew with a docker of today")
	case len(shape.Manifests) > 0 && (len(shape.Layers) > 0 || len(shape.Config) > 0):
		return m, invalidf("its manifest says that it is an image, and that it is a list of images", "push the image anew")
	case slices.Contains(known, t) && slices.Contains(known, shape.MediaType) && t != shape.MediaType:
		return m, invalidf(fmt.Sprintf("the registry says that its manifest is %s, and the manifest that it is %s", t, shape.MediaType), "push the image anew")
	}
	if !slices.Contains(known, t) {
		t = shape.MediaType
	}
	if t == "" { // OCI leaves it away
		if t = types.OCIManifestSchema1; len(shape.Manifests) > 0 {
			t = types.OCIImageIndex
		}
	}
	switch {
	case slices.Contains(indexTypes, t):
		m.index, err = v1.ParseIndexManifest(bytes.NewReader(b))
		if err == nil && len(m.index.Manifests) > maxPlatforms {
			return m, invalidf(fmt.Sprintf("it lists %d platforms; %d are the most", len(m.index.Manifests), maxPlatforms), "")
		}
	case slices.Contains(imageTypes, t):
		m.image, err = v1.ParseManifest(bytes.NewReader(b))
	default:
		return m, invalidf(fmt.Sprintf("it is no container image but %q", cut(string(t))), "name a container image")
	}
	if err != nil {
		return m, &fault{reason: staging.ImageInvalid, text: "its manifest is damaged: " + oneLine(err.Error()), cure: "push the image anew", err: err}
	}
	return m, nil
}

// pick finds the image for the platform.
func (s *session) pick(m manifest) (v1.Descriptor, error) {
	var have []string
	for _, d := range m.index.Manifests {
		p := d.Platform
		if p == nil || p.OS == "unknown" || slices.Contains(indexTypes, d.MediaType) { // what was signed or attested beside it
			continue
		}
		if fits(s.platform, p.OS, p.Architecture, p.Variant) {
			return d, nil
		}
		have = append(have, cut(p.String()))
	}
	if len(have) == 0 {
		return v1.Descriptor{}, invalidf("its list of platforms names none", "name the image for "+s.platform.String()+" by its digest")
	}
	if len(have) > 20 {
		have = append(have[:20], "…")
	}
	return v1.Descriptor{}, invalidf(fmt.Sprintf("there is no image for %s: it is for %s", s.platform, strings.Join(have, ", ")),
		"push one for "+s.platform.String()+", or add a cell that runs one of these")
}

// fits tells whether a platform will do for the one that is wanted.
func fits(want v1.Platform, system, arch, variant string) bool {
	return system == want.OS && arch == want.Architecture && (want.Variant == "" || variant == "" || variant == want.Variant)
}

// checkManifest refuses what is no image that can be run.
func checkManifest(m *v1.Manifest) error {
	if t := m.Config.MediaType; t != types.OCIConfigJSON && t != types.DockerConfigJSON {
		kind := string(t)
		if m.ArtifactType != "" {
			kind = m.ArtifactType
		}
		return invalidf(fmt.Sprintf("it is no container image but an artifact of the type %q", cut(kind)), "name a container image")
	}
	if m.ArtifactType != "" && m.ArtifactType != string(m.Config.MediaType) {
		return invalidf(fmt.Sprintf("it is no container image but an artifact of the type %q", cut(m.ArtifactType)), "name a container image")
	}
	switch n := len(m.Layers); {
	case n == 0:
		return invalidf("it has no layers", "push an image with files in it")
	case n > maxLayers:
		return invalidf(fmt.Sprintf("it has %d layers; %d are the most that can be stacked", n, maxLayers), "build it with fewer steps, or squash them")
	}
	for _, l := range m.Layers {
		switch {
		case l.MediaType.IsDistributable() && l.MediaType.IsLayer(), l.MediaType == dockerZstd:
		case l.MediaType.IsLayer():
			return invalidf("a layer is not kept by the registry, but elsewhere (foreign)", "push the image with all its layers")
		case strings.HasSuffix(string(l.MediaType), "+encrypted"):
			return invalidf("its layers are encrypted", "push it without that")
		default:
			return invalidf(fmt.Sprintf("a layer is of the type %q, which is no archive of files", cut(string(l.MediaType))), "name a container image")
		}
		if l.Size < 0 {
			return invalidf("a layer has a negative size", "push the image anew")
		}
	}
	return nil
}

// readConfig takes from an image's configuration what running needs.
func (s *session) readConfig(b []byte, i *staging.Image) error {
	c, err := v1.ParseConfigFile(bytes.NewReader(b))
	if err != nil {
		return &fault{reason: staging.ImageInvalid, text: "its configuration is damaged: " + oneLine(err.Error()), cure: "push the image anew", err: err}
	}
	if c.Architecture != "" && !fits(s.platform, c.OS, c.Architecture, c.Variant) {
		return invalidf(fmt.Sprintf("there is no image for %s: it is for %s/%s", s.platform, cut(c.OS), cut(c.Architecture)),
			"push one for "+s.platform.String()+", or add a cell that runs this one")
	}
	i.Entrypoint, i.Cmd, i.User = c.Config.Entrypoint, c.Config.Cmd, c.Config.User
	if c.Config.WorkingDir != "" {
		i.WorkingDir = path.Clean("/" + c.Config.WorkingDir)
	}
	for _, kv := range c.Config.Env {
		if k, _, ok := strings.Cut(kv, "="); ok && k != "" {
			i.Env = append(i.Env, kv)
		}
	}
	size := 0
	for _, text := range slices.Concat(i.Entrypoint, i.Cmd, i.Env, []string{i.User, i.WorkingDir}) {
		if strings.ContainsRune(text, 0) {
			return invalidf("its command, environment, user or folder has a zero byte in it", "build it without that")
		}
		size += len(text) + 1
	}
	if size > maxSettings {
		return invalidf(fmt.Sprintf("its command and environment have %d bytes; %d are the most", size, maxSettings), "put what is large into a file")
	}
	return readPorts(c.Config.ExposedPorts, i)
}

// readPorts takes the TCP ports: "8080/tcp", "8080".
func readPorts(exposed map[string]struct{}, i *staging.Image) error {
	if len(exposed) > 1000 {
		return invalidf(fmt.Sprintf("it exposes %d ports; 1000 are the most", len(exposed)), "expose those that it listens on")
	}
	for _, text := range slices.Sorted(maps.Keys(exposed)) {
		number, protocol, _ := strings.Cut(text, "/")
		n, err := strconv.Atoi(number)
		if err != nil || n < 1 || n > 65535 {
			return invalidf(fmt.Sprintf("it exposes port %q, which is no number from 1 to 65535", cut(text)), "build it with ports that are")
		}
		if (protocol == "" || strings.EqualFold(protocol, "tcp")) && !slices.Contains(i.Ports, n) {
			i.Ports = append(i.Ports, n)
		}
	}
	slices.Sort(i.Ports)
	return nil
}
