// Command quickstart pushes an app directory to a platform inside this very process and
// serves it, printing each step as it happens.
//
//	go run ./examples/quickstart [-app DIR] [-buildpack DIR|ZIP|URL]…
//
// It pushes examples/apps/hello-go with examples/buildpacks/go if no other is given.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell/process"
	"github.com/dewpoint-go/dewpoint/resourcematch"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/state/sqlite"
)

// Exit statuses: what a script can tell apart.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitStaging     = 3
	exitUnhealthy   = 4
	exitInterrupted = 130
)

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

type options struct {
	app, name, command, listen, data string
	buildpacks, env                  list
	memory, disk                     string
	instances                        int
	once                             bool
}

func main() {
	var o options
	fs := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	fs.StringVar(&o.app, "app", "", "`folder` (or zip, jar, war) of the app to push; default: examples/apps/hello-go")
	fs.StringVar(&o.name, "name", "", "name of the app; default: that of its folder")
	fs.Var(&o.buildpacks, "buildpack", "buildpack `folder, zip or git/zip URL`; repeatable; default with the default app: examples/buildpacks/go")
	fs.IntVar(&o.instances, "instances", 1, "how many instances to run")
	fs.StringVar(&o.memory, "memory", "256M", "memory of each instance")
	fs.StringVar(&o.disk, "disk", "1G", "disk of each instance")
	fs.Var(&o.env, "env", "environment `NAME=VALUE` of the app; repeatable")
	fs.StringVar(&o.command, "command", "", "start command, instead of the buildpack's")
	fs.StringVar(&o.listen, "listen", "127.0.0.1:0", "`address` that the router listens on; port 0 takes a free one")
	fs.StringVar(&o.data, "data", "", "`folder` for blobs, state and instances; default: dewpoint-quickstart in the user's cache folder")
	fs.BoolVar(&o.once, "once", false, "end after the first request was answered")
	fs.Usage = func() {
		fmt.Fprintln(fs.Output(), "quickstart pushes an app folder and serves it, all in this process.\n\nUsage: quickstart [flags]")
		fs.PrintDefaults()
		fmt.Fprintf(fs.Output(), "\nExit status: 0 well, %d failed, %d wrong use or an app that cannot be pushed, %d staging failed, %d never healthy, %d interrupted.\n",
			exitFailed, exitUsage, exitStaging, exitUnhealthy, exitInterrupted)
	}
	if err := fs.Parse(os.Args[1:]); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		os.Exit(exitUsage)
	}
	if fs.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "quickstart: unexpected argument %q; the app's folder is given with -app\n", fs.Arg(0))
		os.Exit(exitUsage)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, o, os.Stdout)
	interrupted := ctx.Err() != nil
	stop()
	if err != nil && (!interrupted || !errors.Is(err, context.Canceled)) {
		fmt.Fprintln(os.Stderr, "quickstart:", err)
	}
	os.Exit(status(err, interrupted))
}

// usageError is a mistake in the arguments.
type usageError struct{ error }

func status(err error, interrupted bool) int {
	var failed *staging.Error
	var usage usageError
	var unfit *resourcematch.Error
	var unhealthy *dewpoint.UnhealthyError
	switch {
	case err == nil:
		return 0
	case interrupted:
		return exitInterrupted
	case errors.As(err, &usage), errors.As(err, &unfit):
		return exitUsage
	case errors.As(err, &unhealthy):
		return exitUnhealthy
	case errors.As(err, &failed):
		return exitStaging
	}
	return exitFailed
}

func run(ctx context.Context, o options, out io.Writer) error {
	if err := o.defaults(); err != nil {
		return err
	}
	req, err := o.request()
	if err != nil {
		return usageError{err}
	}
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return usageError{fmt.Errorf("-listen: %w; choose another address, or port 0 for a free one", err)}
	}
	defer ln.Close()
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return usageError{fmt.Errorf("-data: %w; give a folder that you may write to", err)}
	}
	blobs, err := blob.OpenDir(filepath.Join(o.data, "blobs"), blob.DirConfig{})
	if err != nil {
		return usageError{fmt.Errorf("-data: %w", err)}
	}
	journal, err := sqlite.Open(ctx, filepath.Join(o.data, "state.db"))
	if err != nil {
		return usageError{fmt.Errorf("-data: %w", err)}
	}
	runtime, err := process.New(ctx, process.Config{Dir: filepath.Join(o.data, "cell")})
	if err != nil {
		return err
	}
	buildpacks, err := buildpack.New(buildpack.Config{
		Catalogue: &buildpack.Catalogue{}, Local: true, BaseEnv: hostEnv(), Dir: filepath.Join(o.data, "buildpacks"),
	})
	if err != nil {
		return err
	}
	p, err := dewpoint.New(dewpoint.Config{
		Blobs:      blobs,
		Runtime:    runtime,
		Journal:    journal,
		Buildpacks: buildpacks,
		Domain:     "localhost",
		Logger:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	return serve(ctx, o, p, ln, out, req)
}

// request is the push that the flags ask for.
func (o *options) request() (req dewpoint.PushRequest, err error) {
	req = dewpoint.PushRequest{Name: o.name, Path: o.app, Instances: &o.instances, Env: o.env, Buildpacks: o.buildpacks, Command: o.command}
	if req.Memory, err = dewpoint.ParseBytes(o.memory); err != nil {
		return req, fmt.Errorf("-memory: %w", err)
	}
	if req.Disk, err = dewpoint.ParseBytes(o.disk); err != nil {
		return req, fmt.Errorf("-disk: %w", err)
	}
	if _, err := os.Stat(o.app); err != nil {
		return req, fmt.Errorf("-app: %w; give the folder of an app", err)
	}
	return req, req.Validate()
}

// serve runs the platform and the router's server, and pushes between.
func serve(ctx context.Context, o options, p *dewpoint.Platform, ln net.Listener, out io.Writer, req dewpoint.PushRequest) error {
	runCtx, stopPlatform := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan error, 1)
	go func() { ended <- p.Run(runCtx) }()
	server := &http.Server{Handler: p.Router(), ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()

	err := pushAndServe(ctx, o, p, ln, out, req, ended)

	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	_ = server.Shutdown(closing)
	<-served
	fmt.Fprintln(out, "Stopping the app and everything that was started …")
	stopPlatform()
	if runErr := <-ended; runErr != nil && err == nil {
		err = runErr
	}
	return err
}

func pushAndServe(ctx context.Context, o options, p *dewpoint.Platform, ln net.Listener, out io.Writer, req dewpoint.PushRequest, ended chan error) error {
	select {
	case <-p.Ready():
	case err := <-ended:
		ended <- nil
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	pr := &printer{out: out}
	pr.header(ctx, o, p)
	if err := endLeftovers(ctx, out, p); err != nil {
		return err
	}
	defer func() {
		if err := endLeftovers(context.WithoutCancel(ctx), io.Discard, p); err != nil {
			fmt.Fprintln(out, err)
		}
	}()
	req.Progress = pr.progress
	res, err := p.Push(ctx, req)
	if err != nil {
		return err
	}
	pr.summary(res)
	host := res.Hosts[0]
	if err := check(ctx, out, ln.Addr().String(), host); err != nil {
		return err
	}
	if o.once {
		return nil
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	fmt.Fprintf(out, "\nServing http://%s:%s (Ctrl-C ends it)\n", host, port)
	pr.follow(ctx, p, res.App)
	return nil
}

// endLeftovers stops the apps that an earlier run left: one that was killed leaves its apps
// running, and the platform has just found them again.
func endLeftovers(ctx context.Context, out io.Writer, p *dewpoint.Platform) error {
	for _, a := range p.Apps() {
		if !a.Started {
			continue
		}
		fmt.Fprintf(out, "An earlier run left %s running; it is ended now.\n", a.Name)
		if err := p.Stop(ctx, a.ID); err != nil {
			return err
		}
	}
	return nil
}

// check makes one request through the router and shows the answer.
func check(ctx context.Context, out io.Writer, addr, host string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		return err
	}
	req.Host = host
	begun := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("request through the router: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 2048))
	if err != nil {
		return fmt.Errorf("request through the router: %w", err)
	}
	fmt.Fprintf(out, "\nGET http://%s/ → %s in %s\n", host, resp.Status, round(time.Since(begun)))
	for l := range strings.Lines(string(body)) {
		fmt.Fprintf(out, "    %s\n", strings.TrimRight(l, "\r\n"))
	}
	if resp.StatusCode >= 500 {
		return fmt.Errorf("the app answered %s; its last lines are above", resp.Status)
	}
	return nil
}
