package staging

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
)

// The phases of a staging, in their order. Those between PhasePlace and PhaseResult are
// known by the lines that a cell prints; a cell that prints none leaves them out.
const (
	PhasePlan   = "plan"   // which buildpacks, and fetching those given by URL
	PhasePlace  = "place"  // waiting for a cell
	PhaseCreate = "create" // the container
	PhaseFetch  = "fetch"  // package, cache and buildpacks onto the cell
	PhaseBuild  = "build"  // the buildpacks
	PhaseSave   = "save"   // droplet and cache off the cell
	PhaseResult = "result" // reading what it left behind
)

// lastLines is how many lines an Error has at most; a cell keeps as many.
const lastLines = 20

// phases passes lines on, one at a time, and tells from them which phase it is.
type phases struct {
	now func() time.Time
	to  func(logs.Line)
	tag logs.Line

	mu   sync.Mutex
	last string // of the phases begun
	at   time.Time
	done []Phase
	tail []string // the newest lines

	pending int  // downloads under way
	created bool // the container is
}

func (p *phases) begin(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.beginLocked(name)
}

func (p *phases) beginLocked(name string) {
	now := p.now()
	p.closeLocked(now)
	p.last, p.at = name, now
}

func (p *phases) closeLocked(now time.Time) {
	if p.last != "" {
		p.done = append(p.done, Phase{Name: p.last, Duration: now.Sub(p.at)})
	}
}

// end closes the last phase and returns all.
func (p *phases) end() []Phase {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closeLocked(p.now())
	return p.done
}

// failed makes an error of our own limit recognisable, whatever the part that noticed it said.
func (p *phases) failed(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errLimit) {
		return fmt.Errorf("%w: %w", errLimit, err)
	}
	return err
}

// line passes on a line of the work, labelled if it is not, and notes what it tells.
func (p *phases) line(l logs.Line) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if l.App == "" {
		l.App = p.tag.App
	}
	if l.Source == "" {
		l.Source = "STG"
	}
	if l.Instance == "" {
		l.Instance = p.tag.Instance
	}
	if l.Time.IsZero() {
		l.Time = p.now()
	}
	if next := p.phaseOf(l.Text); next != "" {
		p.beginLocked(next)
	}
	if len(p.tail) == lastLines {
		p.tail = append(p.tail[:0], p.tail[1:]...)
	}
	p.tail = append(p.tail, l.Text)
	if p.to != nil {
		p.to(l)
	}
}

// phaseOf tells which phase begins with a line of a cell. Only the phase that can come next
// is looked for, so that a build that prints such words does not lead astray for long.
func (p *phases) phaseOf(text string) string {
	isCell := strings.HasPrefix(text, "Cell ")
	created := isCell && strings.Contains(text, " successfully created container for instance ")
	switch p.last {
	case PhasePlace:
		if isCell && strings.Contains(text, " creating container for instance ") {
			return PhaseCreate
		}
	case PhaseCreate, PhaseFetch:
		download := p.download(text)
		switch {
		case p.last == PhaseCreate && (created || download):
			p.created = created
			return PhaseFetch
		case p.last == PhaseCreate:
			return ""
		case created: // layers come before it, the package after it
			p.created = true
		case download && p.created && p.pending == 0 && !strings.HasSuffix(text, " failed"), !download && !isCell:
			return PhaseBuild // a quiet build begins with the end of the last download
		}
	case PhaseBuild:
		if strings.HasPrefix(text, "Uploading droplet") {
			return PhaseSave
		}
	}
	return ""
}

// download counts what is on its way, and tells whether a line is about that.
func (p *phases) download(text string) bool {
	switch {
	case strings.HasPrefix(text, "Downloading ") && strings.HasSuffix(text, "..."):
		p.pending++
	case strings.HasPrefix(text, "Downloaded "), strings.HasPrefix(text, "Downloading ") && strings.HasSuffix(text, " failed"):
		p.pending--
	default:
		return false
	}
	return true
}

func containsFold(s, part string) bool {
	return strings.Contains(strings.ToLower(s), strings.ToLower(part))
}
