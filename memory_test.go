package dewpoint_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
)

// unready holds the ids of instances that say that they are not ready.
var unready sync.Map

// programs are what runs in the memory runtime: a builder that packs the app as it is, and a
// launcher that serves the app's files.
var programs = map[string]func(context.Context, cell.MemoryProcess) int{
	"lifecycle:builder":    buildInMemory,
	"lifecycle:launcher":   launchInMemory,
	"lifecycle:shell":      shellInMemory,
	"lifecycle:entrypoint": imageInMemory,
}

func buildInMemory(_ context.Context, p cell.MemoryProcess) int {
	fmt.Fprintln(p.Stdout, "-----> Packing")
	files, err := fs.Sub(p.FS(), "tmp/app")
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	if _, err := fs.Stat(files, "fail"); err == nil {
		fmt.Fprintln(p.Stderr, "Failed to compile droplet: as the app asked for")
		return 223
	}
	droplet, err := packInMemory(files)
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	more := ""
	if _, err := fs.Stat(files, "worker"); err == nil {
		more = `,{"type":"worker","command":"work"}],"sidecars":[{"name":"watcher","process_types":["worker"],"command":"watch"}`
	}
	result := `{"lifecycle_metadata":{"buildpack_key":"memory","detected_buildpack":"Memory","buildpacks":[{"key":"memory","name":"Memory"}]},` +
		`"process_types":{"web":"serve"},"processes":[{"type":"web","command":"serve"}` + more + `],"execution_metadata":"","lifecycle_type":"buildpack"}`
	for name, data := range map[string][]byte{"/tmp/droplet": droplet, "/tmp/output-cache": droplet, "/tmp/result.json": []byte(result)} {
		if err := p.WriteFile(name, data, 0o644); err != nil {
			fmt.Fprintln(p.Stderr, err)
			return 1
		}
	}
	return 0
}

func packInMemory(files fs.FS) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	err := fs.WalkDir(files, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		if err := w.WriteHeader(&tar.Header{Name: "./app/" + name, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = w.Write(data)
		return err
	})
	if err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// launchInMemory runs a start command: "work" and "watch" wait, anything else serves.
func launchInMemory(ctx context.Context, p cell.MemoryProcess) int {
	switch command := p.Args[1]; command {
	case "once":
		fmt.Fprintln(p.Stdout, "done once")
		if err := p.WriteFile("/tmp/result", []byte("42"), 0o644); err != nil {
			return 1
		}
		return 0
	case "fall":
		return 3
	case "work", "watch":
		fmt.Fprintln(p.Stdout, command+"ing for", p.Getenv("CF_INSTANCE_INDEX"))
		<-ctx.Done()
		return 0
	}
	return serveInMemory(ctx, p)
}

func serveInMemory(ctx context.Context, p cell.MemoryProcess) int {
	files, err := fs.Sub(p.FS(), "home/vcap/app")
	if err != nil {
		return 1
	}
	if _, err := fs.Stat(files, "crash"); err == nil {
		fmt.Fprintln(p.Stderr, "I fall")
		return 17
	}
	if from, err := fs.ReadFile(files, "crash-from"); err == nil && p.Getenv("CF_INSTANCE_INDEX") >= string(from) {
		fmt.Fprintln(p.Stderr, "not one more")
		return 18
	}
	port, err := strconv.Atoi(p.Getenv("PORT"))
	if err != nil {
		fmt.Fprintln(p.Stderr, "PORT:", err)
		return 1
	}
	l, err := p.Listen(port)
	if err != nil {
		fmt.Fprintln(p.Stderr, err)
		return 1
	}
	srv := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, not := unready.Load(p.Getenv("CF_INSTANCE_GUID"))
		if r.URL.Path == "/sick" || r.URL.Path == "/ready" && not {
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		if r.URL.Path == "/index" {
			fmt.Fprint(w, p.Getenv("CF_INSTANCE_INDEX"))
			return
		}
		if name, ok := strings.CutPrefix(r.URL.Path, "/env/"); ok {
			fmt.Fprint(w, p.Getenv(name))
			return
		}
		data, err := fs.ReadFile(files, "index.html")
		if err != nil {
			http.NotFound(w, r)
			return
		}
		w.Write(data)
	})}
	ended := make(chan struct{})
	context.AfterFunc(ctx, func() { // as an app that traps SIGTERM
		defer close(ended)
		_ = srv.Shutdown(context.WithoutCancel(ctx))
	})
	fmt.Fprintln(p.Stdout, "listening")
	_ = srv.Serve(l)
	<-ended
	return 0
}
