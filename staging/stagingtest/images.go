package stagingtest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
)

// ImageSubject is an ImageFetcher and where its images come from.
type ImageSubject struct {
	Fetcher staging.ImageFetcher
	// Put publishes an image in place of the one of that name, which is "suite/NAME:TAG" below its registry, and returns the reference to
	// ask for. Of the image only what Fetch tells of its configuration counts. With a user name, Fetch has to give that and the password.
	Put func(t *testing.T, name string, i staging.Image, username, password string) (ref string)
}

// RunImageFetcher holds what staging.ImageFetcher promises. Open returns one without images.
func RunImageFetcher(t *testing.T, open func(t *testing.T) ImageSubject) {
	t.Helper()
	for _, c := range []struct {
		name string
		test func(t *testing.T, s ImageSubject)
	}{
		{"MetadataIsTold", imageIsTold},
		{"ADigestNamesTheSameImage", imageByDigest},
		{"ATagThatMoves", imageMoves},
		{"WhatIsNotThere", imageAbsent},
		{"ReferencesThatAreNone", imageMalformed},
		{"Credentials", imageCredentials},
		{"EndsWithItsContext", imageCancelled},
		{"Concurrent", imageConcurrent},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.test(t, open(t))
		})
	}
}

var suiteImage = staging.Image{Entrypoint: []string{"/bin/serve"}, Cmd: []string{"--fast", "a b"}, WorkingDir: "/srv", User: "1000:1000",
	Env: []string{"PATH=/bin", "A=1"}, Ports: []int{8080, 9090}}

func ask(ref string) staging.ImageRequest {
	return staging.ImageRequest{ID: fmt.Sprintf("fetch-%d", asked.Add(1)), App: "a", Ref: ref}
}

// asked counts fetches, so that each has an id of its own.
var asked atomic.Int64

func fetch(t *testing.T, s ImageSubject, ref string) staging.Image {
	t.Helper()
	i, err := s.Fetcher.Fetch(t.Context(), ask(ref))
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func imageIsTold(t *testing.T, s ImageSubject) {
	ref := s.Put(t, "suite/app:v1", suiteImage, "", "")
	var said []string
	r := ask(ref)
	r.Out = func(l logs.Line) { said = append(said, l.Text) }
	i, err := s.Fetcher.Fetch(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	got := i
	got.Ref, got.Digest, got.Platform, got.Size, got.Index = "", "", "", 0, ""
	if !reflect.DeepEqual(got, suiteImage) {
		t.Errorf("it is %+v, want %+v", got, suiteImage)
	}
	if !strings.HasPrefix(i.Digest, "sha256:") || i.Ref != ref+"@"+i.Digest {
		t.Errorf("it is called %q, with the digest %q", i.Ref, i.Digest)
	}
	if len(said) == 0 {
		t.Error("nothing was said of it")
	}
	i.Ports[0], i.Env[0] = 1, "PATH=/evil"
	if again := fetch(t, s, ref); again.Ports[0] != 8080 || again.Env[0] != "PATH=/bin" {
		t.Error("an Image is not the caller's own")
	}
}

func imageByDigest(t *testing.T, s ImageSubject) {
	i := fetch(t, s, s.Put(t, "suite/app:v1", suiteImage, "", ""))
	for _, ref := range []string{i.Ref, i.Pinned()} {
		if again := fetch(t, s, ref); again.Digest != i.Digest || again.Pinned() != i.Pinned() {
			t.Errorf("%s is %s", ref, again.Ref)
		}
	}
}

func imageMoves(t *testing.T, s ImageSubject) {
	ref := s.Put(t, "suite/app:v1", suiteImage, "", "")
	first := fetch(t, s, ref)
	r := ask(ref)
	r.Known = []staging.Image{first}
	if i, err := s.Fetcher.Fetch(t.Context(), r); err != nil || !reflect.DeepEqual(i, first) {
		t.Errorf("what is known is %+v (%v)", i, err)
	}
	other := suiteImage
	other.User = "2000"
	s.Put(t, "suite/app:v1", other, "", "")
	i, err := s.Fetcher.Fetch(t.Context(), r)
	if err != nil || i.User != "2000" || i.Digest == first.Digest {
		t.Errorf("after its tag has moved it is %+v (%v)", i, err)
	}
}

// refused holds that an image is refused for what the caller has said.
func refused(t *testing.T, s ImageSubject, r staging.ImageRequest) *staging.Error {
	t.Helper()
	i, err := s.Fetcher.Fetch(t.Context(), r)
	e, ok := errors.AsType[*staging.Error](err)
	if !ok || e.Reason != staging.ImageInvalid {
		t.Fatalf("%q: %+v, %v; want a *staging.Error ImageInvalid", r.Ref, i, err)
	}
	return e
}

func imageAbsent(t *testing.T, s ImageSubject) {
	ref := s.Put(t, "suite/app:v1", suiteImage, "", "")
	name := strings.TrimSuffix(ref, ":v1")
	for _, bad := range []string{name + ":v2", name + "x:v1", name + "@sha256:" + strings.Repeat("a", 64)} {
		_ = refused(t, s, ask(bad))
	}
}

func imageMalformed(t *testing.T, s ImageSubject) {
	for _, bad := range []string{"", "b a d", "a\nb", "UPPER/case::"} {
		_ = refused(t, s, ask(bad))
	}
}

func imageCredentials(t *testing.T, s ImageSubject) {
	const secret = "geh3im"
	r := ask(s.Put(t, "suite/private:v1", suiteImage, "me", secret))
	r.Username, r.Password = "me", secret
	i, err := s.Fetcher.Fetch(t.Context(), r)
	if err != nil || i.User != suiteImage.User {
		t.Fatalf("%+v, %v", i, err)
	}
	r.ID, r.Password = ask("").ID, secret+"-not"
	if e := refused(t, s, r); strings.Contains(e.Error(), secret) {
		t.Errorf("the error shows the password: %v", e)
	}
	r = ask(r.Ref)
	_ = refused(t, s, r)
}

func imageCancelled(t *testing.T, s ImageSubject) {
	ref := s.Put(t, "suite/app:v1", suiteImage, "", "")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Fetcher.Fetch(ctx, ask(ref)); !errors.Is(err, context.Canceled) {
		t.Errorf("a fetch whose context has ended ends with %v", err)
	}
}

func imageConcurrent(t *testing.T, s ImageSubject) {
	ref := s.Put(t, "suite/app:v1", suiteImage, "", "")
	want := fetch(t, s, ref)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if i, err := s.Fetcher.Fetch(t.Context(), ask(ref)); err != nil || !reflect.DeepEqual(i, want) {
				t.Errorf("%+v, %v", i, err)
			}
		})
	}
	wg.Wait()
}
