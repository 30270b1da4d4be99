package dewpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
	"github.com/dewpoint-go/dewpoint/lrp"
	"github.com/dewpoint-go/dewpoint/staging"
	"github.com/dewpoint-go/dewpoint/state"
)

// Image is the container image that an app runs, and what was learned of it. It is asked for once with each push or
// Stage: what runs does not follow a tag that is moved.
type Image struct {
	// Name is what it was pushed as.
	Name string `json:"name"`
	staging.Image
	Build   string    `json:"build"`
	Fetched time.Time `json:"fetched"`
}

// PushImage is Push with an image, by its name, instead of files.
func (p *Platform) PushImage(ctx context.Context, image string, req PushRequest) (*PushResult, error) {
	req.Path, req.Files, req.Image = "", nil, image
	return p.Push(ctx, req)
}

// tasked is a power of an ImageFetcher that runs tasks.
type tasked interface {
	UseTasks(t staging.TaskRunner)
}

// stageImage learns what the image of a push needs.
func (u *push) stageImage(ctx context.Context) error {
	u.begin(StepStage)
	a := u.res.App
	u.line(u.p.apiLine(a.ID, "Creating build for app with guid "+a.ID))
	given := &login{Username: u.req.ImageUsername, Password: u.req.ImagePassword}
	if given.empty() && !u.req.Replace {
		given = nil
	}
	b, i, err := u.p.fetchImage(ctx, a, u.req.Image, given, u.line)
	u.res.Build = b
	if err != nil {
		return err
	}
	u.done("image %s, %s, command %s", i.Ref, FormatBytes(i.Size), cmp.Or(strings.Join(i.Command(), " "), "none"))
	return nil
}

// fetchImage asks what a name stands for now; on success that is the app's image. Given are the credentials, none if it holds
// none; nil: those that the app has, if they are for the same registry.
func (p *Platform) fetchImage(ctx context.Context, a App, name string, given *login, out func(logs.Line)) (Build, Image, error) {
	b := Build{ID: p.newID(), App: a.ID, Image: name, State: BuildStaging, Created: p.now()}
	if err := p.db.Update(ctx, func(tx *state.Tx) error { return builds.Put(tx, b) }); err != nil {
		return b, Image{}, err
	}
	i, keep, err := p.askImage(ctx, a, b.ID, name, given, out)
	b.Ended = p.now()
	// What was begun is recorded even if the caller has gone.
	ctx = context.WithoutCancel(ctx)
	if err == nil {
		b.State, b.Image = BuildStaged, i.Ref
		err = p.keepImage(ctx, a, b, i, keep)
	}
	if err != nil {
		return p.buildFailed(ctx, b, out, err), Image{}, err
	}
	return b, i, nil
}

// askImage asks Config.Images, and says what credentials are to be kept.
func (p *Platform) askImage(ctx context.Context, a App, id, name string, given *login, out func(logs.Line)) (Image, login, error) {
	if p.cfg.Images == nil {
		return Image{}, login{}, &staging.Error{Reason: staging.ImageInvalid, Staging: id, Name: a.Name, Phase: staging.PhasePlan,
			Text: "images cannot be pushed here, as nothing is plugged in that learns what they need", Cure: "set Config.Images to one of package staging/image"}
	}
	var use login
	switch {
	case given != nil:
		use = *given
	default:
		if kept, ok := p.loginOf(a.ID); ok && kept.Host == registryOf(name) {
			use = kept
		}
	}
	req := staging.ImageRequest{ID: id, App: a.ID, Ref: name, Username: use.Username, Password: use.Password, Tags: a.Tags, Isolation: a.Isolation,
		Stack: a.Stack, Out: func(l logs.Line) {
			l.App, l.Source, l.Instance = a.ID, cmp.Or(l.Source, "STG"), cmp.Or(l.Instance, id)
			if l.Time.IsZero() {
				l.Time = p.now()
			}
			out(l)
		}}
	if a.Image != nil {
		req.Known = []staging.Image{a.Image.Image}
	}
	limit := p.stagingTimeout()
	limited, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	got, err := p.cfg.Images.Fetch(limited, req)
	if err != nil {
		if e, ok := errors.AsType[*staging.Error](err); ok && ctx.Err() == nil && limited.Err() != nil {
			e.Reason, e.Text = staging.Timeout, fmt.Sprintf("exceeded %s timeout", limit)
		}
		return Image{}, use, err
	}
	use.Host = registryOf(name)
	return Image{Name: name, Image: got, Build: id, Fetched: p.now()}, use, nil
}

// keepImage makes an image the app's, in place of a droplet.
func (p *Platform) keepImage(ctx context.Context, a App, b Build, i Image, use login) error {
	put, err := p.keepLogin(a.ID, use)
	if err != nil {
		return err
	}
	return p.db.Update(ctx, func(tx *state.Tx) error {
		row, ok := apps.Get(tx, a.ID)
		if !ok {
			return fmt.Errorf("app %s was deleted while it was staged", a.Name)
		}
		row.Image, row.Package, row.Droplet, row.Updated = &i, "", "", p.now()
		if row.Process(Web).Memory == 0 {
			row.set(newProcess(Web))
		}
		if err := put(tx); err != nil {
			return err
		}
		if err := apps.Put(tx, row); err != nil {
			return err
		}
		if err := builds.Put(tx, b); err != nil {
			return err
		}
		p.expire(tx, row)
		return nil
	})
}

// ErrRoot is the answer to an image whose process would run as root where that is not allowed.
var ErrRoot = errors.New("Attempting to run process as root user, which is not permitted") //nolint:staticcheck // Cloud Foundry's words

// desiredImage builds what the scheduler is told of a process of an image, by Cloud Foundry's rules: the user's command, user
// and ports before the image's.
func (p *Platform) desiredImage(a App, pr Process) (lrp.Desired, error) {
	i := a.Image
	var argv []string
	if pr.Type == Web && pr.Command == "" {
		argv = i.Command()
	}
	if pr.Command == "" && len(argv) == 0 {
		why := "image " + i.Name + " has neither entrypoint nor cmd"
		if pr.Type != Web {
			why = "those of an image are for " + Web
		}
		return lrp.Desired{}, fmt.Errorf("process %s: %w: %s; give a command with the push", pr.Type, ErrNoCommand, why)
	}
	user := cmp.Or(pr.User, i.User, "root")
	if isRoot(user) && !p.cfg.RootImages {
		return lrp.Desired{}, fmt.Errorf("process %s: %w: image %s names %s; push with a user, or build the image with one (Config.RootImages allows root)",
			pr.Type, ErrRoot, i.Name, cmp.Or(i.User, "no user"))
	}
	all := skeleton(a, pr, i.Ports)
	w := &all.Work
	w.Spec.Image, w.Spec.User = i.Pinned(), user
	w.Process = cell.Process{
		Path: "lifecycle:entrypoint", Args: append([]string{pr.Command}, argv...),
		Env: mergeEnv(nil, p.environment(a, pr, i.Env)), Dir: cmp.Or(i.WorkingDir, "/"), Grace: cmp.Or(pr.Grace, lrp.DefaultGrace),
	}
	return all, nil
}

// isRoot tells whether a user of an image, "USER:GROUP", is root by that name or number. A cell refuses who is it by another.
func isRoot(user string) bool {
	name, _, _ := strings.Cut(user, ":")
	n, err := strconv.ParseUint(name, 10, 32)
	return name == "" || name == "root" || err == nil && n == 0
}

// registryOf is the registry of an image's name, by docker's rule.
func registryOf(name string) string {
	host, _, ok := strings.Cut(name, "/")
	if !ok || host != "localhost" && !strings.ContainsAny(host, ".:") {
		return "docker.io"
	}
	return host
}
