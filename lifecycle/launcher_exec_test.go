//go:build unix

package lifecycle_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The start command takes the launcher's place: its process is the one that was started, so
// signals and the exit status are the app's own.
func TestLauncherBecomesTheApp(t *testing.T) {
	t.Parallel()
	r := newRun(t, map[string]string{"app/.profile": "echo profile $$\n"})
	p := program(t)
	cmd := p.Command(context.Background(), "launcher", filepath.Join(r.dir, "app"), `trap 'echo ended; exit 7' TERM; echo app $$; read x`)
	cmd.Env, cmd.Stderr = r.env, &r.stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	defer stdin.Close()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.Start(cmd))
	var got []string
	lines := bufio.NewScanner(stdout)
	for lines.Scan() {
		got = append(got, lines.Text())
		if strings.HasPrefix(lines.Text(), "app ") {
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			require.NoError(t, stdin.Close())
		}
	}
	_ = cmd.Wait()
	pid := cmd.Process.Pid
	assert.Equal(t, []string{"Invoking pre-start scripts.", fmt.Sprint("profile ", pid), "Invoking start command.", fmt.Sprint("app ", pid), "ended"}, got)
	assert.Equal(t, 7, cmd.ProcessState.ExitCode())
}

// Scripts may fail, move, be missing or be something else than files, and the command runs.
func TestLauncherOddScripts(t *testing.T) {
	t.Parallel()
	r := newRun(t, map[string]string{
		"profile.d/1.sh":         "cd /; export A=moved; function_of_mine() { echo mine; }\n",
		"profile.d/.hidden":      "echo never\n",
		"app/.profile.d/2 it's":  "nonsense-that-is-not-there 2>/dev/null\nexport B=$B.2\n",
		"app/.profile.d/$(no).x": "export B=$A.3\n",
	})
	require.NoError(t, os.MkdirAll(filepath.Join(r.dir, "app", ".profile"), 0o755))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(r.dir, "profile.d", "9")))
	require.Equal(t, 0, r.role("launcher", "echo $B; pwd", ""))
	assert.Equal(t, lines+"moved.3.2\n/\n", r.stdout.String(), "in the order of their names; the folder is the last one's")
	assert.Empty(t, r.stderr.String())
}

// A script that ends the shell ends the app, before its command.
func TestLauncherScriptExits(t *testing.T) {
	t.Parallel()
	r := newRun(t, map[string]string{"app/.profile": "echo no database >&2; exit 3\n"})
	require.Equal(t, 3, r.role("launcher", "echo never", ""))
	assert.Equal(t, "Invoking pre-start scripts.\n", r.stdout.String())
	assert.Equal(t, "no database\n", r.stderr.String())
}

// The app is asked for as the instance that its certificate names, and CredHub must be one
// that the platform's certificates vouch for.
func TestCredHubKnowsBothSides(t *testing.T) {
	t.Parallel()
	hub := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) != 1 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = w.Write([]byte(`{"db":[{"credentials":{"uri":"mysql://resolved"}}]}`))
	}))
	hub.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	hub.StartTLS()
	defer hub.Close()
	r := newRun(t, nil)
	write := func(name, kind string, der []byte) string {
		file := filepath.Join(r.dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
		return file
	}
	cert := hub.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	require.NoError(t, err)
	certFile := write("cert/instance.crt", "CERTIFICATE", cert.Certificate[0])
	keyFile := write("cert/instance.key", "PRIVATE KEY", key)
	write("system/hub.crt", "CERTIFICATE", hub.Certificate().Raw)
	write("system/other.crt", "CERTIFICATE", []byte("not one"))
	base := append(r.env, `VCAP_SERVICES={"db":[{"credentials":{"credhub-ref":"/db"}}]}`, `VCAP_PLATFORM_OPTIONS={"credhub-uri":"`+hub.URL+`/"}`)
	system := "CF_SYSTEM_CERT_PATH=" + filepath.Join(r.dir, "system")
	instance := []string{"CF_INSTANCE_CERT=" + certFile, "CF_INSTANCE_KEY=" + keyFile}

	r.env = append(append([]string{}, base...), append(instance, system)...)
	require.Equal(t, 0, r.role("launcher", "echo $DATABASE_URL", ""), "%s", r.stderr.String())
	assert.Equal(t, lines+"mysql2://resolved\n", r.stdout.String())
	for name, env := range map[string][]string{
		"a server that nobody vouches for": instance,
		"nobody in particular asks":        {system},
		"the key is lost":                  {system, "CF_INSTANCE_CERT=" + certFile, "CF_INSTANCE_KEY=" + keyFile + ".gone"},
	} {
		r.env = append(append([]string{}, base...), env...)
		r.stdout.Reset()
		r.stderr.Reset()
		assert.Equal(t, 4, r.role("launcher", "echo never", ""), name)
		assert.Empty(t, r.stdout.String())
		assert.Contains(t, r.stderr.String(), "unable to interpolate credhub references")
	}
}
