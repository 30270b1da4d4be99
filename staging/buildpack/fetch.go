package buildpack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/internal/size"
)

// download fetches a zip. One whose digest is known and that lies here is not fetched again.
func (b *Runner) download(ctx context.Context, l location, want string, say func(string)) (archive, error) {
	if want != "" {
		dir, err := b.folderOfArchives()
		if err != nil {
			return archive{}, err
		}
		file := filepath.Join(dir, want+".zip")
		if _, err := os.Stat(file); err == nil {
			say("Downloaded buildpack `" + l.shown + "`")
			return archive{file: file, sha256: want}, nil
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, l.url, nil)
	if err != nil {
		return archive{}, errors.New("bad URL " + l.shown)
	}
	resp, err := b.cfg.Client.Do(req)
	if err != nil {
		return archive{}, err // net/http leaves the password out
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		err := fmt.Errorf("GET %s: %s", l.shown, resp.Status)
		if resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			return archive{}, gone{err}
		}
		return archive{}, err
	}
	var n int64
	a, err := b.store(ctx, ".zip", func(w io.Writer) (err error) {
		n, err = io.Copy(w, io.LimitReader(resp.Body, b.cfg.MaxFetch+1))
		return err
	})
	switch {
	case err != nil:
		return archive{}, err
	case n > b.cfg.MaxFetch:
		_ = os.Remove(a.file)
		return archive{}, fmt.Errorf("%w: it is larger than %s", errInvalid, size.Text(b.cfg.MaxFetch))
	case want != "" && a.sha256 != want:
		_ = os.Remove(a.file)
		return archive{}, fmt.Errorf("%w: %s was asked for, and it has %s", errDigest, want, a.sha256)
	}
	if err := checkArchive(a.file); err != nil {
		_ = os.Remove(a.file)
		return archive{}, err
	}
	say(fmt.Sprintf("Downloaded buildpack `%s` (%s)", l.shown, size.Text(n)))
	return a, nil
}

// gone is an error of a location that will not answer better next time.
type gone struct{ error }

func (gone) Is(target error) bool { return target == fs.ErrNotExist } //nolint:errorlint // a sentinel

// clone fetches a git repository, its newest commit if the server can give that alone, and
// packs it.
func (b *Runner) clone(ctx context.Context, l location, say func(string)) (archive, error) {
	dir, err := b.folderOfArchives()
	if err != nil {
		return archive{}, err
	}
	tmp, err := os.MkdirTemp(dir, ".git-*")
	if err != nil {
		return archive{}, err
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	tree := filepath.Join(tmp, "tree")
	if err := b.checkout(ctx, l, tmp, tree); err != nil {
		return archive{}, fmt.Errorf("git clone %s: %w", l.shown, redacted(err, l))
	}
	commit, err := b.git(ctx, tmp, "-C", tree, "rev-parse", "--short", "HEAD")
	if err != nil {
		return archive{}, err
	}
	if _, err := folderStamp(ctx, tree); err != nil {
		return archive{}, fmt.Errorf("%w: %s has no /bin dir", errInvalid, l.shown)
	}
	a, err := b.store(ctx, ".tar", func(w io.Writer) error { return pack(ctx, w, tree) })
	if err != nil {
		return archive{}, err
	}
	say(fmt.Sprintf("Cloned buildpack `%s` at %s", l.shown, commit))
	return a, nil
}

// checkout clones what l names. Where the newest commit of a branch or tag cannot be had alone,
// because the server knows no such thing or the name is that of a commit, all is cloned.
func (b *Runner) checkout(ctx context.Context, l location, home, tree string) error {
	shallow := []string{"clone", "--quiet", "--recurse-submodules", "--depth", "1"}
	if l.branch != "" {
		shallow = append(shallow, "--branch", l.branch)
	}
	_, err := b.git(ctx, home, append(shallow, "--", l.url, tree)...)
	if err == nil || ctx.Err() != nil || errors.Is(err, exec.ErrNotFound) {
		return err
	}
	_ = os.RemoveAll(tree)
	if _, err := b.git(ctx, home, "clone", "--quiet", "--recurse-submodules", "--", l.url, tree); err != nil || l.branch == "" {
		return err
	}
	if _, err := b.git(ctx, home, "-C", tree, "checkout", "--quiet", l.branch, "--"); err != nil {
		return err
	}
	_, err = b.git(ctx, home, "-C", tree, "submodule", "--quiet", "update", "--init", "--recursive")
	return err
}

// git runs git so that it asks nobody, reads no settings of this machine and touches no
// files of it, whatever a repository's submodules name.
func (b *Runner) git(ctx context.Context, home string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.cfg.Git, args...)
	cmd.Dir = home
	endWhole(cmd)
	cmd.WaitDelay = 300 * time.Millisecond // its children may hold the pipes
	cmd.Env = append(append([]string{}, b.cfg.BaseEnv...),
		"HOME="+home, "XDG_CONFIG_HOME="+home, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL="+os.DevNull,
		"GIT_TERMINAL_PROMPT=0", "GIT_ALLOW_PROTOCOL=http:https:git:ssh", "GIT_SSH_COMMAND=ssh -oBatchMode=yes", "LC_ALL=C")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	switch {
	case err == nil:
		return strings.TrimSpace(stdout.String()), nil
	case ctx.Err() != nil:
		return "", ctx.Err()
	case errors.Is(err, exec.ErrNotFound):
		return "", fmt.Errorf("%w; install git on this machine, or give the URL of a zip", err)
	}
	said := gitSaid(stderr.String())
	if said == "" {
		return "", err
	}
	err = errors.New(said)
	for _, never := range []string{"not found", "does not exist", "invalid reference", "did not match any"} {
		if strings.Contains(said, never) {
			return "", gone{err}
		}
	}
	return "", err
}

// gitSaid takes the cause out of what git printed: its own word is the line that begins with
// "fatal:", what the server or ssh said before may say more, and advice follows.
func gitSaid(stderr string) string {
	var said []string
	for line := range strings.Lines(stderr) {
		if line = strings.TrimSpace(line); line == "" {
			continue
		}
		said = append(said, line)
		if strings.HasPrefix(line, "fatal:") && !strings.HasSuffix(line, ":") {
			break
		}
	}
	return strings.Join(said[max(0, len(said)-3):], "; ")
}

// redacted takes a URL's password out of what git said.
func redacted(err error, l location) error {
	if l.url == l.shown || !strings.Contains(err.Error(), l.url) {
		return err
	}
	clean := errors.New(strings.ReplaceAll(err.Error(), l.url, l.shown))
	if errors.Is(err, fs.ErrNotExist) {
		return gone{clean}
	}
	return clean
}
