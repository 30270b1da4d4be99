package image

import (
	"github.com/dewpoint-go/dewpoint/staging"
)

// Name is a reference with all that is left out of it.
func Name(ref string) (string, error) {
	f, err := New(Config{Platform: "linux/amd64"})
	if err != nil {
		return "", err
	}
	s, err := f.session(staging.ImageRequest{Ref: ref}, nil)
	if err != nil {
		return "", err
	}
	return s.name, nil
}

// Digest reads bytes as anything that a registry may answer.
func Digest(b []byte, kind string) error {
	f, err := New(Config{Platform: "linux/amd64"})
	if err != nil {
		return err
	}
	s := &session{f: f, platform: f.platform}
	if err := s.readConfig(b, &staging.Image{}); err != nil {
		_ = err.Error()
	}
	m, err := readManifest(b, kind)
	if err != nil {
		return err
	}
	if m.index != nil {
		_, err = s.pick(m)
		return err
	}
	return checkManifest(m.image)
}

// Parameters reads those of a challenge.
var Parameters = parameters
