package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/blob"
	"github.com/dewpoint-go/dewpoint/cell/local"
	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/staging/buildpack"
	"github.com/dewpoint-go/dewpoint/staging/image"
	"github.com/dewpoint-go/dewpoint/state"
	"github.com/dewpoint-go/dewpoint/state/sqlite"
)

// push makes the platform, runs it, and pushes and serves the app.
func push(ctx context.Context, o *options, out io.Writer) error {
	ln, err := net.Listen("tcp", o.listen)
	if err != nil {
		return usagef("-listen: %w; choose another address, or port 0 for a free one", err)
	}
	defer ln.Close()
	p, c, err := platform(ctx, o)
	if err != nil {
		return err
	}
	runCtx, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	serveCtx, over := context.WithCancel(ctx) // a platform that ends by itself ends what is done with it
	defer over()
	var runErr error
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer over()
		runErr = p.Run(runCtx)
	}()
	server := router.NewServer(p.Router(), router.ServerConfig{})
	served := make(chan error, 1)
	go func() { served <- server.Serve(ln) }()

	select {
	case <-p.Ready():
		err = pushAndServe(serveCtx, o, p, c, ln, out)
	case <-ended:
	case <-ctx.Done():
		err = ctx.Err()
	}
	// Requests first, so that those under way are answered by an app that still runs.
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	_ = server.Shutdown(closing)
	if serveErr := <-served; err == nil && !errors.Is(serveErr, http.ErrServerClosed) {
		err = serveErr
	}
	slow := time.AfterFunc(2*time.Second, func() {
		fmt.Fprintln(out, "It may take 10 s to end. Ctrl-C again does not wait; the next start ends it then.")
	})
	defer slow.Stop()
	select {
	case <-ended: // all that ran has ended with it
	default:
		stopErr := stopApps(context.WithoutCancel(ctx), p, func(name string) { fmt.Fprintf(out, "Stopping %s …\n", name) })
		if err == nil {
			err = stopErr
		}
	}
	stop()
	if <-ended; runErr != nil && ctx.Err() == nil {
		err = runErr // whatever it made of the rest
	}
	if closeErr := c.Close(); err == nil {
		err = closeErr
	}
	return err
}

// platform puts the parts together: all that is kept lies in the data folder.
func platform(ctx context.Context, o *options) (*dewpoint.Platform, *local.Cell, error) {
	if err := os.MkdirAll(o.data, 0o700); err != nil {
		return nil, nil, usagef("-data: %w; give a folder that you may write to", err)
	}
	blobs, err := blob.OpenDir(filepath.Join(o.data, "blobs"), blob.DirConfig{})
	if err != nil {
		return nil, nil, usagef("-data: %w", err)
	}
	journal, err := sqlite.Open(ctx, filepath.Join(o.data, "state.db"))
	if err != nil {
		return nil, nil, usagef("-data: %w", err)
	}
	c, err := openCell(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	p, err := assemble(o, c, blobs, journal)
	if err != nil {
		return nil, nil, errors.Join(err, c.Close())
	}
	return p, c, nil
}

// assemble makes the platform.
func assemble(o *options, c *local.Cell, blobs *blob.Dir, journal state.Journal) (_ *dewpoint.Platform, err error) {
	catalogue := &buildpack.Catalogue{}
	if o.catalogue != "" {
		if catalogue, err = buildpack.Folder(o.catalogue); err != nil {
			return nil, usagef("-buildpacks: %w", err)
		}
	}
	runner, err := buildpack.New(buildpack.Config{
		Catalogue: catalogue, Local: true, BaseEnv: toolEnv(c, o.share), Dir: filepath.Join(o.data, "buildpacks"),
	})
	if err != nil {
		return nil, err
	}
	config := image.Config{}
	if home, err := os.UserHomeDir(); err == nil {
		config.Docker = filepath.Join(cmp.Or(os.Getenv("DOCKER_CONFIG"), filepath.Join(home, ".docker")), "config.json")
	}
	images, err := image.New(config)
	if err != nil {
		return nil, err
	}
	return dewpoint.New(dewpoint.Config{
		Images:     images,
		RootImages: true, // root inside is this user outside, or nobody in particular
		Blobs:      blobs,
		Runtime:    c,
		Journal:    journal,
		Buildpacks: runner,
		Domain:     "localhost",
		MinMatch:   -1, // files of any size need not be stored again
		Logger:     slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
}

// pushAndServe pushes the app, shows that it answers, and unless -once serves until ctx ends.
func pushAndServe(ctx context.Context, o *options, p *dewpoint.Platform, c *local.Cell, ln net.Listener, out io.Writer) error {
	pr := &printer{out: out}
	pr.header(ctx, o, p, c)
	// One that was killed leaves its apps running, and the platform has just found them again.
	err := stopApps(ctx, p, func(name string) {
		fmt.Fprintf(out, "An earlier run left %s running; it is ended now.\n", name)
	})
	if err != nil {
		return err
	}
	req := o.req
	req.Progress = pr.progress
	res, err := p.Push(ctx, req)
	if err != nil {
		return err
	}
	pr.summary(res)
	_, port, err := net.SplitHostPort(ln.Addr().String())
	if err != nil {
		return err
	}
	host := res.Hosts[0]
	switch code, err := check(ctx, out, ln.Addr().String(), host); {
	case err != nil:
		return err
	case code >= 500 && o.once:
		return fmt.Errorf("the app answered %d", code)
	case o.once:
		return nil
	case o.shell:
		return shell(ctx, p, res.App.Name, out)
	}
	fmt.Fprintf(out, "\nServing http://%s:%s (Ctrl-C ends it)\n", host, port)
	pr.follow(ctx, p, res.App)
	return nil
}

// stopApps stops every app that is started; tell is called before each.
func stopApps(ctx context.Context, p *dewpoint.Platform, tell func(name string)) error {
	for _, a := range p.Apps() {
		if !a.Started {
			continue
		}
		tell(a.Name)
		if err := p.Stop(ctx, a.ID); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// check makes one request through the router and shows the answer.
func check(ctx context.Context, out io.Writer, addr, host string) (code int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+"/", nil)
	if err != nil {
		return 0, err
	}
	req.Host = host
	req.Close = true
	begun := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("request through the router: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 2048))
	if err != nil {
		return 0, fmt.Errorf("request through the router: %w", err)
	}
	fmt.Fprintf(out, "\nGET http://%s/ → %s in %s\n", host, resp.Status, round(time.Since(begun)))
	for l := range strings.Lines(string(body)) {
		fmt.Fprintf(out, "    %s\n", printable(strings.TrimRight(l, "\r\n")))
	}
	return resp.StatusCode, nil
}
