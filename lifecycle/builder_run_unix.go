//go:build unix

package lifecycle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/dewpoint-go/dewpoint/droplet"
)

// buildpacksRun runs the buildpacks and returns the processes they and the app name.
func (b *builder) buildpacksRun() (processList, error) {
	var detected string
	var err error
	last := 0
	if b.skipDetect {
		last = len(b.order) - 1
		err = b.supplyAll()
	} else {
		detected, err = b.detect()
	}
	if err != nil {
		return processList{}, err
	}
	err = b.finish(last)
	b.tell(last, detected) // of a failure too
	if err != nil {
		return processList{}, err
	}
	return b.processes(last)
}

// detect takes the first buildpack that knows the app.
func (b *builder) detect() (name string, err error) {
	for _, key := range b.order {
		dir, err := b.folder(key)
		if err != nil {
			b.say(err)
			continue
		}
		script := filepath.Join(dir, "bin", "detect")
		if fi, err := os.Stat(script); err == nil && fi.Mode()&0o111 == 0 {
			b.say("WARNING: buildpack script '/bin/detect' is not executable")
			continue
		}
		out, err := b.scripts.capture(script, b.build)
		if err != nil {
			var code interface{ ExitCode() int }
			if !errors.As(err, &code) || code.ExitCode() >= 126 || code.ExitCode() < 0 {
				b.say(fmt.Sprintf("%s: %v", key, err)) // it did not say no, it could not say
			}
			continue
		}
		b.order, b.final = withOnly(b.order, key), dir
		return detectedName(out), nil
	}
	return "", &exitError{exitDetect, errors.New(detectFailed)}
}

// detectedName is what a bin/detect printed, as text that can be shown and kept.
func detectedName(out []byte) string {
	name := strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(string(out[:min(len(out), 4<<10)]), ""))
	name = strings.TrimSpace(name)
	if len(name) > maxDetected {
		name = strings.TrimSpace(strings.ToValidUTF8(name[:maxDetected], ""))
	}
	return name
}

// maxDetected is the longest name that is taken, in bytes: what Cloud Controller's column holds.
const maxDetected = 255

// withOnly puts key first; the list keeps its length, by which folders are named.
func withOnly(order []string, key string) []string {
	one := make([]string, len(order))
	one[0] = key
	return one
}

// supplyAll runs all buildpacks but the last.
func (b *builder) supplyAll() error {
	fail := func(err error) error { return &exitError{exitSupply, err} }
	n := len(b.order) - 1
	dirs := make([]string, len(b.order))
	for i, key := range b.order {
		dir, err := b.folder(key)
		if err != nil {
			return fail(fmt.Errorf("%s: %w", supplyFailed, err))
		}
		if dirs[i] = dir; i < n && !exists(dir, "bin", "supply") {
			return fail(errors.New(noMulti))
		}
	}
	for i, key := range b.order[:n] {
		err := b.scripts.run(filepath.Join(dirs[i], "bin", "supply"), b.build, b.supplyCache(key), b.deps(), b.index(i))
		b.tell(i, "")
		if err != nil {
			return fail(fmt.Errorf("%s: %w", supplyFailed, err))
		}
	}
	b.final = dirs[n]
	return nil
}

// finish runs the last buildpack, whose failures are all one to Cloud Foundry.
func (b *builder) finish(i int) error {
	fail := func(err error) error { return &exitError{exitCompile, fmt.Errorf("%s: %w", compileFailed, err)} }
	script := func(name string) string { return filepath.Join(b.final, "bin", name) }
	if !exists(b.final, "bin", "finalize") {
		if len(b.order) > 1 && b.skipDetect {
			b.say(lastNoMulti)
		}
		if err := os.RemoveAll(b.depsDir(i)); err != nil {
			return fail(err)
		}
		if err := b.scripts.run(script("compile"), b.build, b.finalCache()); err != nil {
			return fail(err)
		}
		return nil
	}
	if exists(b.final, "bin", "supply") {
		if err := b.scripts.run(script("supply"), b.build, b.finalCache(), b.deps(), b.index(i)); err != nil {
			return fail(fmt.Errorf("%s: %w", supplyFailed, err))
		}
	}
	if err := b.scripts.run(script("finalize"), b.build, b.finalCache(), b.deps(), b.index(i), b.profileDir()); err != nil {
		return fail(fmt.Errorf("%s: %w", finalizeFailed, err))
	}
	return nil
}

// tell notes what a buildpack says of itself.
func (b *builder) tell(i int, detected string) {
	u := usedBuildpack{Key: b.order[i], Name: detected}
	file := filepath.Join(b.depsDir(i), "config.yml")
	text, err := os.ReadFile(file)
	if err == nil {
		var c buildpackConfig
		if c, err = parseConfig(text); err == nil {
			if c.Name != "" {
				u.Name = c.Name
			}
			u.Version, u.OutputMetadata = c.Version, c.OutputMetadata
			if c.Config.EntrypointPrefix != "" {
				u.Config = &droplet.LaunchConfig{EntrypointPrefix: c.Config.EntrypointPrefix}
			}
		}
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		b.say(fmt.Sprintf("WARNING: %s: config.yml is not used: %v", u.Key, err))
	}
	b.used = append(b.used, u)
}

// processes merges, later over earlier: launch.yml of each buildpack, what the last releases
// if it has none, and the Procfile.
func (b *builder) processes(last int) (l processList, err error) {
	found := false
	for i := range last + 1 {
		text, err := os.ReadFile(filepath.Join(b.depsDir(i), "launch.yml"))
		if found = err == nil; !found {
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			return l, fmt.Errorf("Failed to read launch.yml: %w", err)
		}
		more, err := parseLaunch(text)
		if err != nil {
			return l, fmt.Errorf("Failed to read launch.yml of %s: invalid YAML: %w", b.order[i], err)
		}
		l.merge(more)
	}
	if !found { // in the last
		more, err := b.release()
		if err != nil {
			return l, &exitError{exitRelease, fmt.Errorf("%s: %w", releaseFailed, err)}
		}
		l.merge(more)
	}
	text, err := os.ReadFile(filepath.Join(b.build, "Procfile"))
	if errors.Is(err, os.ErrNotExist) {
		return l, nil
	}
	if err == nil {
		var more processList
		if more, err = parseProcfile(text); err == nil {
			l.merge(more)
			return l, nil
		}
	}
	return l, fmt.Errorf("Failed to read command from Procfile: %w", err)
}

func (b *builder) release() (processList, error) {
	out, err := b.scripts.capture(filepath.Join(b.final, "bin", "release"), b.build)
	if err != nil {
		return processList{}, err
	}
	if len(out) == maxCapture {
		return processList{}, fmt.Errorf("buildpack's release output invalid: it is %d MiB or more", maxCapture>>20)
	}
	l, err := parseRelease(out)
	if err != nil {
		return l, fmt.Errorf("buildpack's release output invalid: %w", err)
	}
	return l, nil
}

func (b *builder) say(what any) { fmt.Fprintln(b.scripts.stderr, what) }

func exists(path ...string) bool {
	_, err := os.Stat(filepath.Join(path...))
	return err == nil
}
