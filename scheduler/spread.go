package scheduler

import (
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Policy chooses cells. Place is pure: the same arguments give the same choice, and are not
// changed. It is called by one goroutine at a time, and everybody waits for it. The
// conformance suite is schedulertest.RunPolicy.
type Policy interface {
	// Place returns the id of one of v.Cells that is Reachable, not Draining and not one of
	// w.Avoid, has room for w.Spec, and offers its stack, tags and isolation. If none will do,
	// the error is a *PlacementError that says which rule refused how many cells.
	Place(w Want, v *View) (string, error)
}

// Spread is the default Policy, Cloud Foundry's. Of the cells that fit it takes, for an
// instance, one in the zone with the fewest instances of its process, then the one with the
// lowest score: the mean of the fractions of memory, disk and containers that are used
// with it, + 0.25 for each work that is starting there, up to 32, + 1000 for each instance of the
// process (for a task: each task) there, + BinPack for each cell of the zone before it.
// Ties go to the lower id (auctioneer: auctionrunner/scheduler.go, rep: resources.go).
type Spread struct {
	// BinPack, if not 0, fills the first cells of a zone before the others.
	BinPack float64
}

var (
	_ Policy    = Spread{}
	_ Explainer = Spread{}
)

// Place implements Policy. Its time grows with the logarithm of the number of cells.
func (p Spread) Place(w Want, v *View) (string, error) {
	binPack := p.binPack()
	ix := v.indexed(binPack)
	own := v.spread[w.LRP]
	if w.LRP == "" {
		own = nil
	}
	var best *CellView
	bestScore := int64(never)
	look := func(z *indexZone) {
		for _, k := range z.classes {
			if !admits(w.Spec, k.like) {
				continue
			}
			c, score := k.find(&w, own)
			if c == nil {
				continue
			}
			score += added(w.Spec, k.like.Total)
			if best == nil || score < bestScore || score == bestScore && c.ID < best.ID {
				best, bestScore = c, score
			}
		}
	}
	if w.LRP == "" || own == nil || len(ix.zones) == 1 {
		for i := range ix.zones {
			look(&ix.zones[i])
		}
	} else {
		// Zones with equally many instances compete; the first such group that has a place wins.
		for n, more := 0, true; more && best == nil; {
			next := -1
			for i := range ix.zones {
				z := &ix.zones[i]
				switch has := own.inZone(z.name); {
				case has == n:
					look(z)
				case has > n && (next < 0 || has < next):
					next = has
				}
			}
			n, more = next, next >= 0
		}
	}
	if best == nil {
		return "", refuse(w, v)
	}
	return best.ID, nil
}

func (p Spread) binPack() int64 { return int64(p.BinPack * unit) }

// admits tells whether the cells of a class pass all rules but that of resources.
func admits(s cell.Spec, c *CellView) bool {
	return isolates(s.Isolation, c.Total.Isolation) && hasStack(s, c) && tagged(s.Tags, c)
}

// hasStack also serves "", which is any cell's first, and images, which bring their own, where the cell runs any.
func hasStack(s cell.Spec, c *CellView) bool {
	if s.Image != "" {
		return c.Total.Images
	}
	return s.Stack == "" || slices.Contains(c.Total.Stacks, s.Stack)
}

// tagged: a cell's required tags are all wanted, and it has all that are wanted.
func tagged(want []string, c *CellView) bool {
	if len(want) == 0 && len(c.Tags) == 0 {
		return true
	}
	for _, t := range c.Tags {
		if !slices.Contains(want, t) {
			return false
		}
	}
	for _, t := range want {
		if !slices.Contains(c.Tags, t) && !slices.Contains(c.OptionalTags, t) {
			return false
		}
	}
	return true
}

// levels of isolation, weakest first; those of one rank do not stand in for each other.
var levels = map[string]int{"none": 0, "landlock": 1, "namespaces": 2, "containerd": 3}

func isolates(want, have string) bool {
	if want == "" || want == have {
		return true
	}
	w, known := levels[want]
	h, offered := levels[have]
	return known && offered && h >= w
}

// Order sorts works into the order in which they are placed, Cloud Foundry's: the first
// instances, so that every process has one; then tasks; then the other instances by index.
// Among equals the large ones come first, which find a place less easily, and then those that
// came first. Unlike there, it makes no difference whether all are first instances.
func Order(works []Want) {
	slices.SortStableFunc(works, func(a, b Want) int { return order(&a, &b) })
}

func order(a, b *Want) int {
	rank := func(w *Want) int {
		switch {
		case w.LRP == "":
			return 1
		case w.Index == 0:
			return 0
		}
		return 2
	}
	if r := rank(a) - rank(b); r != 0 {
		return r
	}
	if a.LRP != "" && a.Index != b.Index {
		return a.Index - b.Index
	}
	switch {
	case a.Spec.Memory > b.Spec.Memory:
		return -1
	case a.Spec.Memory < b.Spec.Memory:
		return 1
	}
	return strings.Compare(a.LRP, b.LRP)
}
