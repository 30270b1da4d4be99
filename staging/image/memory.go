package image

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
)

// Memory is a registry of image metadata in memory, for tests and demonstrations. The zero
// value is empty and ready. All methods may be called by any number of goroutines.
type Memory struct {
	// Fail, if set, is asked before each Fetch; an error that it returns is the answer.
	// Set it before the first call.
	Fail func(staging.ImageRequest) error

	mu     sync.RWMutex
	images map[string]entry // by reference without digest, and by name and digest without tag
}

type entry struct {
	image              staging.Image
	username, password string
}

var _ staging.ImageFetcher = (*Memory)(nil)

// Put adds an image under its Ref, or replaces it: "nginx", "host/repo:tag". An empty Digest
// is made of the metadata. With a user name, Fetch asks for it and the password.
func (m *Memory) Put(i staging.Image, username, password string) {
	i = clone(i)
	if i.Digest == "" {
		b, err := json.Marshal(i)
		if err != nil { // plain data: cannot be
			panic(err)
		}
		i.Digest = fmt.Sprintf("sha256:%x", sha256.Sum256(b))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.images == nil {
		m.images = map[string]entry{}
	}
	m.images[normal(i.Ref)] = entry{i, username, password}
	m.images[pinned(normal(i.Ref), i.Digest)] = entry{i, username, password}
}

// pinned is a reference by its digest alone.
func pinned(ref, digest string) string { return staging.Image{Ref: ref, Digest: digest}.Pinned() }

// Fetch implements staging.ImageFetcher. A reference may end in "@" and a digest: then it is the image of that, wherever its tag
// has gone.
func (m *Memory) Fetch(ctx context.Context, r staging.ImageRequest) (staging.Image, error) {
	if err := ctx.Err(); err != nil {
		return staging.Image{}, err
	}
	if m.Fail != nil {
		if err := m.Fail(r); err != nil {
			return staging.Image{}, err
		}
	}
	refuse := func(text, cure string) (staging.Image, error) {
		return staging.Image{}, &staging.Error{Reason: staging.ImageInvalid, Name: r.Ref, Text: text, Cure: cure}
	}
	ref, digest, byDigest := strings.Cut(r.Ref, "@")
	if ref == "" || strings.ContainsAny(ref, " \t\n") {
		return refuse(fmt.Sprintf("%q is not an image reference", r.Ref), "write HOST/REPOSITORY:TAG")
	}
	m.mu.RLock()
	name := normal(ref)
	if byDigest {
		name = pinned(name, digest)
	}
	e, ok := m.images[name]
	m.mu.RUnlock()
	switch {
	case !ok:
		return refuse("there is no such image", "check its name and tag")
	case e.username != "" && (e.username != r.Username || e.password != r.Password):
		return refuse("the registry refused the credentials", "check user name and password")
	}
	if r.Out != nil {
		r.Out(logs.Line{Source: "STG", Time: time.Now(), Text: "Fetched metadata of " + ref + "@" + e.image.Digest})
	}
	i := clone(e.image)
	i.Ref = ref + "@" + i.Digest
	return i, nil
}

// normal gives a reference without a tag the usual one. A colon before the last slash is
// that of a port.
func normal(ref string) string {
	if strings.LastIndexByte(ref, ':') <= strings.LastIndexByte(ref, '/') {
		return ref + ":latest"
	}
	return ref
}

func clone(i staging.Image) staging.Image {
	i.Entrypoint, i.Cmd, i.Env, i.Ports = slices.Clone(i.Entrypoint), slices.Clone(i.Cmd), slices.Clone(i.Env), slices.Clone(i.Ports)
	return i
}
