//go:build unix

package lifecycle

import (
	"context"
	"crypto/md5"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"

	"github.com/dewpoint-go/dewpoint/internal/size"
	"github.com/dewpoint-go/dewpoint/internal/tarfs"
)

const downloadTimeout = 10 * time.Minute

func hash64(key string) string { return fmt.Sprintf("%016x", xxhash.Sum64String(key)) }

// folder finds the folder of a buildpack, which holds bin.
func (b *builder) folder(key string) (string, error) {
	dirs := []string{b.fetched[key]}
	if dirs[0] == "" {
		dirs = []string{
			filepath.Join(b.buildpacks, hash64(key)),
			filepath.Join(b.buildpacks, fmt.Sprintf("%x", md5.Sum([]byte(key)))),
		}
	}
	for _, d := range dirs {
		if exists(d, "bin") {
			return d, nil
		}
		// An archive of a repository has everything in one folder.
		var nested []string
		entries, _ := os.ReadDir(d)
		for _, e := range entries {
			if exists(d, e.Name(), "bin") {
				nested = append(nested, filepath.Join(d, e.Name()))
			}
		}
		if len(nested) == 1 {
			return nested[0], nil
		}
	}
	return "", fmt.Errorf("malformed buildpack does not contain a /bin dir: %s", key)
}

// fetch gets the buildpacks that are given as URLs.
func (b *builder) fetch(ctx context.Context) error {
	for i, key := range b.order {
		u, err := url.Parse(key)
		if err != nil || !u.IsAbs() || b.fetched[key] != "" {
			continue
		}
		dir := filepath.Join(b.temp, fmt.Sprintf("buildpack-%d", i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if strings.HasSuffix(u.Path, ".zip") {
			err = b.download(ctx, u, dir)
		} else {
			err = b.clone(u, dir)
		}
		if err != nil {
			return fmt.Errorf("Failed to download buildpack `%s`: %w", u.Redacted(), err)
		}
		b.fetched[key] = dir
	}
	return nil
}

func (b *builder) download(ctx context.Context, u *url.URL, dir string) error {
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	t := &http.Transport{
		Proxy:           http.ProxyFromEnvironment,
		TLSClientConfig: &tls.Config{InsecureSkipVerify: b.skipCertVerify}, // the flag says so
	}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: t}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the server answers %s", resp.Status)
	}
	f, err := os.CreateTemp(b.temp, "zip-")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }()
	defer f.Close()
	n, err := io.Copy(f, resp.Body)
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if _, err := tarfs.ExtractZip(ctx, root, ".", f, n, tarfs.Limits{Archive: path.Base(u.Path)}); err != nil {
		return err
	}
	fmt.Fprintf(b.scripts.stdout, "Downloaded buildpack `%s` (%s)\n", u.Redacted(), size.Text(n))
	return nil
}

// clone takes the newest commit only, where the server can give that.
func (b *builder) clone(u *url.URL, dir string) error {
	at, ref := *u, u.Fragment
	at.Fragment, at.RawFragment = "", ""
	if strings.HasPrefix(ref, "-") {
		return fmt.Errorf("%q is not a branch or tag", ref)
	}
	var common []string
	if b.skipCertVerify {
		common = []string{"-c", "http.sslVerify=false"}
	}
	git := func(args ...string) error {
		return b.scripts.run("git", append(common[:len(common):len(common)], args...)...)
	}
	shallow := []string{"clone", "--quiet", "--depth", "1", "--recursive"}
	if ref != "" {
		shallow = append(shallow, "--branch", ref)
	}
	if err := git(append(shallow, "--", at.String(), dir)...); err == nil {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := git("clone", "--quiet", "--recursive", "--", at.String(), dir); err != nil {
		return err
	}
	if ref == "" {
		return nil
	}
	if err := git("-C", dir, "checkout", "--quiet", ref, "--"); err != nil {
		return err
	}
	return git("-C", dir, "submodule", "--quiet", "update", "--init", "--recursive")
}
