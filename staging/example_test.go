package staging_test

import (
	"context"
	"errors"
	"fmt"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/stagingtest"
)

// A failed staging says which of Cloud Foundry's reasons it was.
func ExampleStager_Stage() {
	tasks := &stagingtest.Tasks{Func: func(_ context.Context, w cell.Work, say func(string)) cell.Status {
		say("-----> Compiling")
		return stagingtest.Ended(w, 1)
	}}
	s, err := staging.New(staging.Config{Runner: runner{}, Tasks: tasks})
	if err != nil {
		panic(err)
	}
	_, err = s.Stage(context.Background(), staging.Request{
		ID: "build-1", App: "app-1", AppName: "shop",
		Package: cell.Input{Source: "package:p-1"}, DropletKey: "droplets/1",
	}, func(l logs.Line) { fmt.Println(l.Source, l.Text) })

	var e *staging.Error
	if errors.As(err, &e) {
		name, code, _ := e.CFError()
		fmt.Println(e)
		fmt.Println(name, code, e.Phase, e.Retryable)
	}
	// Output:
	// STG -----> Compiling
	// stage shop: STG: Exited with status 1
	// StagingError 170001 build false
}
