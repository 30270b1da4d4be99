// Command quickstart pushes an app directory to a platform inside this very process and
// serves it, printing each step as it happens.
//
//	go run ./examples/quickstart [-app DIR] [-buildpack DIR|ZIP|URL]…
//
// It pushes examples/apps/hello-go if no other app is given, and detects one of
// examples/buildpacks if none is named.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/dewpoint-go/dewpoint"
	"github.com/dewpoint-go/dewpoint/resourcematch"
	"github.com/dewpoint-go/dewpoint/staging"
)

// Exit statuses: what a script can tell apart.
const (
	exitFailed      = 1
	exitUsage       = 2
	exitStaging     = 3
	exitUnhealthy   = 4
	exitInterrupted = 130
)

func main() { os.Exit(run(os.Args[1:])) }

// sameSignal is how long after a signal another one says the same.
const sameSignal = 500 * time.Millisecond

// errPipe ends the program when nobody reads what it prints.
var errPipe = errors.New("nobody reads the output any more")

func run(args []string) int {
	o, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return 0
	case err != nil:
		fmt.Fprintln(os.Stderr, "quickstart:", err)
		return exitUsage
	}
	// A terminal that is closed ends everything like Ctrl-C. A second signal ends the program
	// at once: then the next start ends the app. One that comes with the first is not meant so: timeout(1)
	// signals its child and then the whole group.
	ctx, restore := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer context.AfterFunc(ctx, func() { time.AfterFunc(sameSignal, restore) })()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Caught, so that a write to a pipe without a reader fails, instead of killing us.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	out := &output{w: os.Stdout, broken: func() { cancel(errPipe) }}
	err = push(ctx, o, out)
	st := status(err, ctx.Err() != nil)
	switch {
	case st == exitInterrupted && !errors.Is(context.Cause(ctx), errPipe):
		fmt.Fprintln(os.Stderr, "quickstart: interrupted; nothing runs any more")
	case st != 0 && st != exitInterrupted:
		fmt.Fprintln(os.Stderr, "quickstart:", advise(err))
	}
	return st
}

// output tells when nobody reads it any more.
type output struct {
	w      io.Writer
	broken func()
}

func (o *output) Write(p []byte) (int, error) {
	n, err := o.w.Write(p)
	if err != nil {
		o.broken()
	}
	return n, err
}

// usageError is a mistake in the arguments.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

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

// advise is the error in the words of this program's user.
func advise(err error) string {
	var failed *staging.Error
	text := err.Error()
	switch {
	case errors.As(err, &failed):
		name, _, _ := failed.CFError()
		text = name + ": " + failed.Error()
	case errors.Is(err, dewpoint.ErrNoCommand):
		text += " (here: -command)"
	case errors.Is(err, dewpoint.ErrRoot):
		text += " (here: -user)"
	}
	return text
}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

// options are the command line.
type options struct {
	app, name, command, listen, data string
	image, user                      string
	buildpacks, env, share           list
	catalogue, cell, socket          string
	memory, disk                     string
	instances                        int
	once, shell                      bool

	req dewpoint.PushRequest // what they ask for
}

const usage = `quickstart pushes an app folder and serves it, all in this process.

Usage: quickstart [flags]

Exit status:
   0  it served, or with -once answered
   1  it failed
   2  wrong flags, or an app that cannot be pushed
   3  staging failed
   4  the app does not run
 130  interrupted before the app was served

Flags:
`

func parse(args []string) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.app, "app", "", "`folder` (or zip, jar, war) of the app to push; default: examples/apps/hello-go")
	f.StringVar(&o.image, "image", "", "`name` of a container image to push instead of an app: HOST/REPOSITORY:TAG, or nginx for Docker Hub's; credentials are docker's (docker login)")
	f.StringVar(&o.user, "user", "", "`user` of the programs of an image; default: the image's own")
	f.StringVar(&o.name, "name", "", "`name` of the app; default: that of its folder")
	f.Var(&o.buildpacks, "buildpack", "`place` of a buildpack: a name of -buildpacks, a folder, a zip, or the URL of a zip or git repository; repeatable, the last builds the app; default: one is detected")
	f.StringVar(&o.catalogue, "buildpacks", "", "`folder` with a buildpack in each subfolder, to detect from; default: examples/buildpacks")
	f.IntVar(&o.instances, "instances", 1, "how many instances to run")
	f.StringVar(&o.memory, "memory", "256M", "memory of each instance")
	f.StringVar(&o.disk, "disk", "1G", "disk of each instance")
	f.Var(&o.env, "env", "environment `NAME=VALUE` of the app; repeatable")
	f.StringVar(&o.command, "command", "", "start `command`, instead of the buildpack's")
	f.StringVar(&o.listen, "listen", "127.0.0.1:0", "`address` that the router listens on; port 0 takes a free one")
	f.StringVar(&o.data, "data", "", "`folder` for blobs, state and instances; default: dewpoint-quickstart in the user's cache folder")
	f.StringVar(&o.cell, "cell", "auto", "`kind` of cell: sandbox isolates what it runs, process does not; auto takes the strongest isolation that works here without root; containerd, as root, limits memory and more")
	f.StringVar(&o.socket, "containerd", "", "`socket` of the containerd for -cell containerd; default: one is started, which ends with this program")
	f.Var(&o.share, "share", "`folder` of this machine that builds and apps see inside a sandbox too, read-only, such as a toolchain; repeatable")
	f.BoolVar(&o.shell, "shell", false, "open a shell beside the app when it runs, and end with that")
	f.BoolVar(&o.once, "once", false, "end after the first request was answered")
	switch err := f.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fmt.Print(usage)
		f.SetOutput(os.Stdout)
		f.PrintDefaults()
		return o, err
	case err != nil:
		return o, fmt.Errorf("%w; -h lists the flags", err)
	case f.NArg() > 0:
		return o, fmt.Errorf("unexpected argument %q; the app's folder is given with -app", f.Arg(0))
	}
	return o, o.complete()
}
