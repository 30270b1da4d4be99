package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/internal/needs"
)

// server serves what its environment holds once its sidecar has told it something.
const server = `
import http.server, os, time
deps, home = os.environ["DEPS_DIR"], os.environ["HOME"]
while not os.path.exists(home + "/told"):
    time.sleep(0.01)
body = "%s, %s, %s" % (open(deps + "/0/answer").read().strip(), open(home + "/told").read().strip(), os.environ["FROM_PROFILE"])
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write((body + "\n").encode())
http.server.HTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
`

// A buildpack that supplies and the Python one build an app together: the second finds what the
// first supplied, the sidecar runs beside the process, the Procfile's command wins over both
// buildpacks', and each finds its cache when the app is pushed again.
func TestSeveralBuildpacksMakeOneApp(t *testing.T) {
	t.Parallel()
	needs.Tool(t, "python3")
	data, dir := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"server.py": server, "requirements.txt": "", "Procfile": "web: python3 server.py\nworker: sleep 1\n", ".profile": "export FROM_PROFILE=profiled\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	for _, answer := range []string{"supplied 1, told, profiled", "supplied 2, told, profiled"} {
		status, stdout, stderr := pushed(t, "-data", data, "-app", dir, "-name", "both", "-buildpack", "testdata/supply", "-buildpack", "../buildpacks/python", "-once")
		require.Equal(t, 0, status, "%s%s", stdout, stderr)
		assert.Contains(t, stdout, "200 OK")
		assert.Contains(t, stdout, answer)
		assert.Contains(t, stdout, "buildpacks supply 2.5, python 1.0.0\n")
		nothingLeft(t, data)
	}
}
