package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/dewpoint-go/dewpoint/lifecycle"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
)

func init() { lifecycle.Run(roleName, runRole) }

// runRole is the task of OnCell: it asks as request.json in its folder says, and leaves result.json there. It ends with Cloud
// Foundry's status 2 if there is no image, and says so in its words (dockerapplifecycle, builder/main.go).
func runRole([]string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	fmt.Println("Staging process started ...")
	got, err := perform(ctx)
	res := outcome{Image: &got}
	if err != nil {
		x := &staging.Error{Reason: staging.StagingError, Text: err.Error()}
		if e, ok := errors.AsType[*staging.Error](err); ok {
			x = e
		}
		res = outcome{Error: &failure{x.Reason, x.Name, x.Phase, x.Text, x.Cure, x.Retryable}}
	}
	text, e := json.Marshal(res)
	if e == nil {
		e = os.WriteFile(resultFile, text, 0o600)
	}
	if err = errors.Join(err, e); err != nil {
		fmt.Fprintln(os.Stderr, "Staging process failed:", err)
		return 2
	}
	fmt.Println("Staging process finished")
	return 0
}

func perform(ctx context.Context) (staging.Image, error) {
	text, err := os.ReadFile(requestFile)
	if err != nil {
		return staging.Image{}, err
	}
	if err := os.Remove(requestFile); err != nil { // it holds credentials
		return staging.Image{}, err
	}
	var o order
	if err := json.Unmarshal(text, &o); err != nil {
		return staging.Image{}, fmt.Errorf("%s: %w", requestFile, err)
	}
	f, err := New(o.Config)
	if err != nil {
		return staging.Image{}, err
	}
	defer f.Close()
	return f.Fetch(ctx, staging.ImageRequest{ID: o.ID, App: o.App, Ref: o.Ref, Username: o.Username, Password: o.Password, Platform: o.Platform,
		Known: o.Known, Out: func(l logs.Line) { fmt.Println(l.Text) }})
}
