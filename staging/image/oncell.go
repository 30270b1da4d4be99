package image

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sync"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/staging"
)

// OnCell is a staging.ImageFetcher that asks registries from a cell, as Cloud Foundry does: each Fetch is a task, placed,
// limited and ended like any staging, whose lines are told as they come. What it is to ask, credentials included, is given to the cell
// alone when the task begins; it is in no journal and no note of a container. Make it with NewOnCell; its methods may be
// called by any number of goroutines.
type OnCell struct {
	cfg   Config
	known *Fetcher // for the credentials that Config knows, which stay here

	mu    sync.Mutex // guards what follows
	tasks staging.TaskRunner
	asked map[cell.Source][]byte // requests under way
}

var _ staging.ImageFetcher = (*OnCell)(nil)

// NewOnCell checks a Config. Tasks runs the tasks; nil: a dewpoint.Platform gives its own. The cells must have a lifecycle
// program that offers the role "image": that of a program which imports this package, or the stock one. Config.Timeout is for the asking
// alone; the whole ends with the context of Fetch, or after staging.DefaultTimeout.
func NewOnCell(c Config, tasks staging.TaskRunner) (*OnCell, error) {
	f, err := New(c)
	if err != nil {
		return nil, err
	}
	return &OnCell{cfg: c, known: f, tasks: tasks, asked: map[cell.Source][]byte{}}, nil
}

// UseTasks gives who runs the tasks, unless NewOnCell has been given one.
func (o *OnCell) UseTasks(t staging.TaskRunner) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.tasks == nil {
		o.tasks = t
	}
}

// Close lets go of idle connections.
func (o *OnCell) Close() { o.known.Close() }

// Login is that of Fetcher.
func (o *OnCell) Login(ctx context.Context, registry string) (username, password string, err error) {
	return o.known.Login(ctx, registry)
}

// What a task and we tell each other, in the folder where it runs.
const (
	roleName    = "image"
	roleDir     = "/tmp/image"
	requestFile = "request.json"
	resultFile  = "result.json"

	sourceKind = "image-request:"
)

// order is request.json.
type order struct {
	Config                 Config
	ID, App, Ref, Platform string
	Username, Password     string
	Known                  []staging.Image
}

// outcome is result.json: an Image, or why there is none.
type outcome struct {
	Image *staging.Image `json:"image,omitempty"`
	Error *failure       `json:"error,omitempty"`
}

type failure struct {
	Reason    staging.Reason `json:"reason"`
	Name      string         `json:"name"`
	Phase     string         `json:"phase"`
	Text      string         `json:"text"`
	Cure      string         `json:"cure"`
	Retryable bool           `json:"retryable"`
}

// Open gives the cell what a task is to ask. Others than those under way do not exist.
func (o *OnCell) Open(_ context.Context, s cell.Source) (io.ReadCloser, error) {
	o.mu.Lock()
	text, ok := o.asked[s]
	o.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("request for an image %s: %w", s, fs.ErrNotExist)
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: requestFile, Mode: 0o600, Size: int64(len(text))})
	if err == nil {
		_, err = w.Write(text)
	}
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, err
	}
	return io.NopCloser(&b), nil
}

// Fetch implements staging.ImageFetcher. Every error is a *staging.Error. Credentials that Config knows for mirrors are not
// used.
func (o *OnCell) Fetch(ctx context.Context, r staging.ImageRequest) (staging.Image, error) {
	o.mu.Lock()
	tasks := o.tasks
	o.mu.Unlock()
	s, err := o.known.session(r, nil) // what is wrong with the name needs no cell
	if err != nil {
		return staging.Image{}, refused(r, err)
	}
	f := &fetching{name: "image " + shown(r.Ref), source: cell.Source(sourceKind + r.ID)}
	fail := func(text, cure string) (staging.Image, error) {
		return staging.Image{}, &staging.Error{Reason: staging.StagingError, Staging: r.ID, Name: f.name, Phase: staging.PhasePlan, Text: text, Cure: cure}
	}
	switch {
	case tasks == nil:
		return fail("nobody runs the task that asks for the image", "give NewOnCell a staging.TaskRunner")
	case r.ID == "":
		return fail("the request has no ID", "give each fetch its own")
	}
	if r.Username == "" && r.Password == "" {
		if r.Username, r.Password, err = o.Login(ctx, s.host); err != nil {
			return fail(err.Error(), "")
		}
	}
	text, err := json.Marshal(order{o.cfg, r.ID, r.App, r.Ref, r.Platform, r.Username, r.Password, r.Known})
	if err != nil {
		return fail(err.Error(), "")
	}
	st, err := staging.New(staging.Config{Runner: f, Tasks: tasks})
	if err != nil {
		return fail(err.Error(), "")
	}
	o.mu.Lock()
	o.asked[f.source] = text
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		delete(o.asked, f.source)
	}()
	_, err = st.Stage(ctx, staging.Request{ID: r.ID, App: r.App, AppName: f.name, Stack: r.Stack, Tags: r.Tags, Isolation: r.Isolation,
		Package: cell.Input{Source: f.source}, DropletKey: "none"}, r.Out) // no droplet comes of it
	if err != nil {
		return staging.Image{}, err
	}
	return f.image, nil
}

// fetching is one fetch as a staging.Stager runs it.
type fetching struct {
	name   string
	source cell.Source
	image  staging.Image
}

// A fetch reads a few small documents.
const (
	taskMemory = 256 << 20
	taskDisk   = 64 << 20
	taskPIDs   = 256
)

// Plan implements staging.BuildpackRunner.
func (f *fetching) Plan(_ context.Context, r staging.Request, _ func(logs.Line)) (cell.Work, error) {
	return cell.Work{
		ID: r.ID,
		Spec: cell.Spec{
			Stack: r.Stack, Memory: taskMemory, Disk: taskDisk, CPU: staging.CPU, PIDs: taskPIDs, NoFile: 1024,
		},
		Inputs:  []cell.Input{{Source: f.source, Dir: roleDir}},
		Process: cell.Process{Path: "lifecycle:" + roleName, Dir: roleDir},
		Outputs: []cell.Output{{Path: path.Join(roleDir, resultFile), Inline: true, MaxBytes: 1 << 20, OnFailure: true}},
		Log:     cell.LogTag{App: r.App, Source: "STG"},
	}, nil
}

// Result implements staging.BuildpackRunner.
func (f *fetching) Result(_ context.Context, r staging.Request, s cell.Status) (staging.Result, error) {
	var res outcome
	err := errors.New("it left none")
	if out, ok := s.Outputs[path.Join(roleDir, resultFile)]; ok {
		err = json.Unmarshal(out.Data, &res)
	}
	switch e := staging.Failed(r, s); {
	case err == nil && res.Error != nil:
		x := res.Error
		return staging.Result{}, &staging.Error{Reason: x.Reason, Staging: r.ID, Name: x.Name, Phase: x.Phase, Text: x.Text, Cure: x.Cure,
			Retryable: x.Retryable, Last: s.Last}
	case e != nil:
		return staging.Result{}, e
	case err != nil, res.Image == nil:
		return staging.Result{}, &staging.Error{Reason: staging.StagingError, Staging: r.ID, Name: f.name, Phase: staging.PhaseResult, Last: s.Last,
			Text: "Malformed result of the role image", Cure: "if the cell has another version of the lifecycle, bring both to the same", Err: err}
	}
	f.image = *res.Image
	return staging.Result{}, nil
}
