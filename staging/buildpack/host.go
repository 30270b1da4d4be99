package buildpack

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Folder makes a Catalogue of the buildpacks that lie in the subfolders of dir, in order of
// their names: each subfolder with a bin folder in it. The Runner must allow local
// locations. No folder: an error that wraps fs.ErrNotExist; none in it: an empty Catalogue.
func Folder(dir string) (*Catalogue, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("folder of buildpacks: %w", err)
	}
	all := &Catalogue{}
	for _, e := range entries {
		sub := filepath.Join(dir, e.Name())
		// What cannot be looked into is no buildpack either.
		if fi, err := os.Stat(filepath.Join(sub, "bin")); err != nil || !fi.IsDir() {
			continue
		}
		if err := all.Add(Entry{Name: e.Name(), Location: "dir:" + sub}); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// hostVariables are what HostEnv takes: where tools are, and how they reach the network.
// Those that end in "*" stand for all that begin so.
var hostVariables = []string{
	"PATH", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR",
	"GOROOT", "GOPROXY", "GONOSUMDB", "GOSUMDB", "GOFLAGS", "GOTOOLCHAIN", "JAVA_HOME", "PIP_*", "npm_config_*", "NPM_CONFIG_*",
}

// HostEnv picks from an environment ("K=V", as os.Environ gives it) what buildpacks that use
// this machine's tools should know: PATH, proxies, certificates, and the settings of package
// managers. It is for Config.BaseEnv on cells without a root filesystem of their own.
func HostEnv(environ []string) []string {
	var env []string
	for _, kv := range environ {
		name, _, ok := strings.Cut(kv, "=")
		if !ok {
			continue
		}
		for _, v := range hostVariables {
			if prefix, many := strings.CutSuffix(v, "*"); name == v || many && strings.HasPrefix(name, prefix) {
				env = append(env, kv)
				break
			}
		}
	}
	return env
}
