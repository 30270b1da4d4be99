package dewpoint_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing/fstest"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/scheduler"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/staging/image"
	"github.com/dewpoint-go/dewpoint/state"
)

// A platform of five parts, wholly in memory, pushes an app and answers a request.
func Example() {
	db, _ := state.Open(context.Background(), state.Config{}, scheduler.Tables()...)
	sched, _ := scheduler.New(scheduler.Config{DB: db})
	packs, _ := buildpack.New(buildpack.Config{Catalogue: &buildpack.Catalogue{}, Local: true})
	defer packs.Close()
	p, _ := dewpoint.New(dewpoint.Config{
		Blobs:      blob.NewMemory(),
		Runtime:    cell.NewMemory(cell.MemoryConfig{Programs: programs}), // Go functions for programs
		Buildpacks: packs,
		Images:     &image.Memory{},
		Scheduler:  sched,
	})
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	ended := make(chan error)
	go func() { ended <- p.Run(ctx) }()

	res, err := p.Push(ctx, dewpoint.PushRequest{
		Name:       "hello",
		Files:      fstest.MapFS{"index.html": {Data: []byte("dew"), Mode: 0o644}},
		Buildpacks: []string{"testdata/buildpack"},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	answer := httptest.NewRecorder()
	p.Router().ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "http://"+res.Hosts[0]+"/", nil))
	fmt.Println(res.Hosts[0], answer.Code, answer.Body)
	stop()
	fmt.Println(<-ended)
	// Output:
	// hello.localhost 200 dew
	// <nil>
}
