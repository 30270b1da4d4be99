// Command custompaas shows how to replace two parts of the platform by your own: a blob
// store that counts what goes through it, and a buildpack runner that needs no buildpack.
//
//	go run ./examples/custompaas
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"sync/atomic"
	"testing/fstest"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
)

// countingStore is a blob store of one's own: it embeds one and counts the bytes put.
type countingStore struct {
	blob.Store
	put atomic.Int64
}

func (s *countingStore) Put(ctx context.Context, key string, r io.Reader) (blob.Info, error) {
	info, err := s.Store.Put(ctx, key, r)
	s.put.Add(info.Size)
	return info, err
}

// siteRunner is a buildpack runner of one's own. Its droplet is made by the program
// "pack-site" on the cell, and its process is "serve-site".
type siteRunner struct{}

func (siteRunner) Plan(_ context.Context, r staging.Request, _ func(logs.Line)) (cell.Work, error) {
	return cell.Work{
		ID:      r.ID,
		Inputs:  []cell.Input{r.Package},
		Process: cell.Process{Path: "pack-site"},
		Outputs: []cell.Output{{Path: "/tmp/droplet", Key: r.DropletKey, Name: "droplet"}},
		Log:     cell.LogTag{App: r.App, Source: "STG"},
	}, nil
}

func (siteRunner) Result(_ context.Context, _ staging.Request, s cell.Status) (staging.Result, error) {
	if s.Failure != "" {
		return staging.Result{}, errors.New(s.Failure)
	}
	return staging.Result{
		Droplet:           s.Outputs["/tmp/droplet"],
		DetectedBuildpack: "site",
		Processes:         []staging.Process{{Type: "web", Command: "serve-site"}},
	}, nil
}

func main() {
	if len(os.Args) > 1 {
		fmt.Fprintf(os.Stderr, "custompaas: unexpected argument %q; it takes none\n", os.Args[1])
		os.Exit(2)
	}
	if err := run(context.Background(), os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "custompaas:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer) (err error) {
	store := &countingStore{Store: blob.NewMemory()}
	p, err := dewpoint.New(dewpoint.Config{
		Blobs:      store,
		Buildpacks: siteRunner{},
		Runtime: cell.NewMemory(cell.MemoryConfig{Programs: map[string]func(context.Context, cell.MemoryProcess) int{
			"pack-site":          packSite,
			"lifecycle:launcher": serveSite,
		}}),
	})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	defer func() {
		cancel()
		err = errors.Join(err, <-ended)
	}()

	res, err := p.Push(ctx, dewpoint.PushRequest{
		Name:  "site",
		Files: fstest.MapFS{"index.html": {Data: []byte("<h1>made by a runner of our own</h1>\n"), Mode: 0o644}},
	})
	if err != nil {
		return err
	}
	answer := httptest.NewRecorder()
	request := httptest.NewRequest(http.MethodGet, "http://"+res.Hosts[0]+"/", nil)
	p.Router().ServeHTTP(answer, request)
	fmt.Fprintf(out, "%s answers %d: %s", res.Hosts[0], answer.Code, answer.Body)
	summary, err := json.Marshal(map[string]any{"buildpack": res.Droplet.DetectedBuildpack, "stored": store.put.Load() > 0})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, string(summary))
	return nil
}
