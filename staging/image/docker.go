package image

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

// dockerFile is docker's config.json, as far as it is about logins.
type dockerFile struct {
	Auths map[string]struct {
		Auth          string `json:"auth"`
		Username      string `json:"username"`
		Password      string `json:"password"`
		IdentityToken string `json:"identitytoken"`
		RegistryToken string `json:"registrytoken"`
	} `json:"auths"`
	Helpers map[string]string `json:"credHelpers"`
	Store   string            `json:"credsStore"`
}

// hubKey is what docker calls Docker Hub there.
const hubKey = "https://index.docker.io/v1/"

// dockerLogin finds the credentials of a registry as docker does: those of its helper, of the store, or in the file.
func dockerLogin(ctx context.Context, file, host string) (authn.AuthConfig, error) {
	b, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return authn.AuthConfig{}, nil // nobody has logged in
	} else if err != nil {
		return authn.AuthConfig{}, err
	}
	var d dockerFile
	if err := json.Unmarshal(b, &d); err != nil {
		return authn.AuthConfig{}, fmt.Errorf("%s: %w", file, err)
	}
	keys := []string{host, "https://" + host, "http://" + host, "https://" + host + "/v1/", "https://" + host + "/v2/"}
	if host == hub {
		keys = []string{hubKey, hub, "index.docker.io", "registry-1.docker.io"}
	}
	for _, k := range keys {
		if h := d.Helpers[k]; h != "" {
			return helperLogin(ctx, h, k)
		}
	}
	if d.Store != "" {
		if a, err := helperLogin(ctx, d.Store, keys[0]); err != nil || a != (authn.AuthConfig{}) {
			return a, err
		}
	}
	for _, k := range keys {
		a, ok := d.Auths[k]
		if !ok {
			continue
		}
		c := authn.AuthConfig{Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}
		if a.Auth != "" {
			raw, err := base64.StdEncoding.DecodeString(a.Auth)
			user, password, ok := strings.Cut(string(raw), ":")
			if err != nil || !ok {
				return c, fmt.Errorf("%s: the login of %s is not base64 of USER:PASSWORD", file, k)
			}
			c.Username, c.Password = user, strings.TrimRight(password, "\x00")
		}
		return c, nil
	}
	return authn.AuthConfig{}, nil
}

// helperWait is how long a helper may take.
const helperWait = 30 * time.Second

// helperLogin asks a program docker-credential-NAME: it is given the registry, and prints JSON.
func helperLogin(ctx context.Context, helper, key string) (authn.AuthConfig, error) {
	if strings.ContainsAny(helper, "/\\") {
		return authn.AuthConfig{}, fmt.Errorf("credential helper %q: a name has no slash", helper)
	}
	ctx, cancel := context.WithTimeout(ctx, helperWait)
	defer cancel()
	program := "docker-credential-" + helper
	cmd := exec.CommandContext(ctx, program, "get")
	cmd.WaitDelay = time.Second
	cmd.Stdin = strings.NewReader(key)
	var out bytes.Buffer
	cmd.Stdout = &out
	err := cmd.Run()
	if err != nil {
		// By its words, which are docker's: the exit status is the same for all failures.
		if strings.Contains(out.String(), "credentials not found") {
			return authn.AuthConfig{}, nil
		}
		return authn.AuthConfig{}, fmt.Errorf("%s: %w", program, err)
	}
	var got struct{ Username, Secret string }
	if json.Unmarshal(out.Bytes(), &got) != nil { // its error would show a part of it
		return authn.AuthConfig{}, fmt.Errorf("%s printed no JSON", program)
	}
	if got.Username == "<token>" {
		return authn.AuthConfig{IdentityToken: got.Secret}, nil
	}
	return authn.AuthConfig{Username: got.Username, Password: got.Secret}, nil
}
