package scheduler

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Want is one work to be placed.
type Want struct {
	Spec  cell.Spec
	LRP   string // "" for a task
	Index int
	// Avoid holds the cells that have refused this very work, and why.
	Avoid map[string]string
}

// CellView is a cell as the Scheduler accounts for it. Work that was sent counts at once.
type CellView struct {
	ID        string
	Zone      string
	Tags      []string
	Total     cell.Resources // a Memory, Disk or Containers of 0 is not counted
	Used      cell.Resources // Memory, Disk and Containers
	Starting  int            // works that do not run yet
	Tasks     int
	Draining  bool
	Reachable bool // it answers, and has told what it runs
}

// View is what a Policy may look at. It must be changed only by the Scheduler.
type View struct {
	Cells []*CellView // in order of ID

	spread map[string]map[string]int
}

// Instances counts the instances of a process on each cell that has any.
func (v *View) Instances(lrp string) map[string]int { return v.spread[lrp] }

// zones counts the instances in each zone that has any.
func (v *View) zones(mine map[string]int) zoneCounts {
	var counts zoneCounts
	for id, n := range mine {
		i := sort.Search(len(v.Cells), func(i int) bool { return v.Cells[i].ID >= id })
		if i == len(v.Cells) || v.Cells[i].ID != id {
			continue // a cell that was removed
		}
		zone := v.Cells[i].Zone
		k := slices.IndexFunc(counts, func(c zoneCount) bool { return c.zone == zone })
		if k < 0 {
			k, counts = len(counts), append(counts, zoneCount{zone: zone})
		}
		counts[k].n += n
	}
	return counts
}

// zoneCounts is a list because zones are few: comparing beats hashing.
type zoneCounts []zoneCount

type zoneCount struct {
	zone string
	n    int
}

func (z zoneCounts) count(zone string) int {
	for i := range z {
		if z[i].zone == zone {
			return z[i].n
		}
	}
	return 0
}

// Policy chooses cells. Place is pure: the same arguments give the same choice, and are not
// changed. It is called by one goroutine at a time, and everybody waits for it. The
// conformance suite is schedulertest.RunPolicy.
type Policy interface {
	// Place returns the id of one of v.Cells that is Reachable, not Draining and not one of
	// w.Avoid, has room for w.Spec, and offers its stack and isolation. If none will do, the
	// error is a *PlacementError that says which rule refused how many cells.
	Place(w Want, v *View) (string, error)
}

// PlacementError says why no cell was found.
type PlacementError struct {
	// Text is Cloud Foundry's: "insufficient resources: memory", "found no compatible
	// cell …", "unable to communicate to compatible cells".
	Text string
	// Refused tells how many cells each rule refused, most first.
	Refused []Refusal
}

// Refusal counts the cells that a rule refused.
type Refusal struct {
	Rule  string
	Cells int
}

// Error begins with Text and goes on with the reasons.
func (e *PlacementError) Error() string {
	if len(e.Refused) == 0 {
		return e.Text + " (there are no cells)"
	}
	parts := make([]string, len(e.Refused))
	for i, r := range e.Refused {
		plural := "s"
		if r.Cells == 1 {
			plural = ""
		}
		parts[i] = fmt.Sprintf("%d cell%s: %s", r.Cells, plural, r.Rule)
	}
	return e.Text + " (" + strings.Join(parts, "; ") + ")"
}

// The texts of a PlacementError, which are Cloud Foundry's; details may follow a ":" or a word.
const (
	textSilent       = "unable to communicate to compatible cells"
	textIncompatible = "found no compatible cell"
	textInsufficient = "insufficient resources"
)

// Spread is the default Policy. Of the cells that fit it takes, for an instance, one in
// the zone with the fewest instances of its process, then the one with the lowest score:
// mean of the used fractions of memory, disk and containers, + 0.25 for each work that
// is starting there, + 1000 for each instance of the process (for a task: each task)
// there. Ties go to the lower id. It looks at every cell, once.
type Spread struct{}

var _ Policy = Spread{}

const (
	startingWeight = 0.25
	localityWeight = 1000
)

// Place implements Policy.
func (Spread) Place(w Want, v *View) (string, error) {
	mine := v.Instances(w.LRP)
	zones := v.zones(mine)
	var best *CellView
	var bestZone int
	var bestScore float64
	for _, c := range v.Cells {
		if lacks(w.Spec, c) != 0 || !admits(w, c) {
			continue
		}
		z := zones.count(c.Zone)
		if best != nil && z > bestZone {
			continue
		}
		s := score(w, c)
		if best != nil && z == bestZone && s >= bestScore {
			continue // its own instances can only make it worse
		}
		if mine != nil {
			s += localityWeight * float64(mine[c.ID])
		}
		if best == nil || z < bestZone || s < bestScore {
			best, bestZone, bestScore = c, z, s
		}
	}
	if best == nil {
		return "", refuse(w, v)
	}
	return best.ID, nil
}

// score is how little a cell is liked, but for the instances of the same process there.
func score(w Want, c *CellView) float64 {
	var sum, n float64
	if t := c.Total.Memory; t > 0 {
		sum += float64(c.Used.Memory+w.Spec.Memory) / float64(t)
		n++
	}
	if t := c.Total.Disk; t > 0 {
		sum += float64(c.Used.Disk+w.Spec.Disk) / float64(t)
		n++
	}
	if t := c.Total.Containers; t > 0 {
		sum += float64(c.Used.Containers+1) / float64(t)
		n++
	}
	if n > 0 {
		sum /= n
	}
	sum += startingWeight * float64(c.Starting)
	if w.LRP == "" {
		sum += localityWeight * float64(c.Tasks)
	}
	return sum
}

// What a cell may lack.
const (
	lackContainers = 1 << iota
	lackDisk
	lackMemory
)

var lackNames = []string{"containers", "disk", "memory"} // by bit, and in the order of Cloud Foundry's text

func lackText(lack int) string {
	var names []string
	for i, n := range lackNames {
		if lack&(1<<i) != 0 {
			names = append(names, n)
		}
	}
	return strings.Join(names, ", ")
}

func lacks(s cell.Spec, c *CellView) int {
	lack := 0
	if c.Total.Memory > 0 && c.Used.Memory+s.Memory > c.Total.Memory {
		lack |= lackMemory
	}
	if c.Total.Disk > 0 && c.Used.Disk+s.Disk > c.Total.Disk {
		lack |= lackDisk
	}
	if c.Total.Containers > 0 && c.Used.Containers >= c.Total.Containers {
		lack |= lackContainers
	}
	return lack
}

// admits tells whether a cell passes all rules but that of resources.
func admits(w Want, c *CellView) bool {
	if !c.Reachable || c.Draining || !isolates(w.Spec.Isolation, c.Total.Isolation) || !hasStack(w.Spec, c) {
		return false
	}
	if len(w.Avoid) == 0 {
		return true
	}
	_, avoided := w.Avoid[c.ID]
	return !avoided
}

func hasStack(s cell.Spec, c *CellView) bool {
	return s.Image != "" || s.Stack == "" || slices.Contains(c.Total.Stacks, s.Stack)
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

// refuse finds the words for why no cell will do. The rule that most nearly let a cell
// pass gives the text.
func refuse(w Want, v *View) *PlacementError {
	count := map[string]int{}
	text, rank := textSilent, 0
	common, short := ^0, false
	advance := func(r int, t string) {
		if r > rank {
			rank, text = r, t
		}
	}
	for _, c := range v.Cells {
		lack := lacks(w.Spec, c)
		why, avoided := w.Avoid[c.ID]
		switch {
		case !c.Reachable:
			count["does not answer"]++
		case c.Draining:
			count["is draining"]++
		case !hasStack(w.Spec, c):
			count[fmt.Sprintf("has no stack %q", w.Spec.Stack)]++
			advance(1, textIncompatible+" for required rootfs")
		case !isolates(w.Spec.Isolation, c.Total.Isolation):
			count[fmt.Sprintf("isolates by %q, not by %q", c.Total.Isolation, w.Spec.Isolation)]++
			advance(2, fmt.Sprintf("%s with isolation %q", textIncompatible, w.Spec.Isolation))
		case lack != 0:
			count["lacks "+lackText(lack)]++
			common, short = common&lack, true
		case avoided:
			count["refused: "+why]++
			named, _ := strings.CutPrefix(why, textInsufficient+": ")
			if named != why {
				common &= lackBits(named)
			} else {
				common = 0
			}
			short = true
		}
	}
	if short {
		text = textInsufficient
		if names := lackText(common); names != "" {
			text += ": " + names
		}
	}
	e := &PlacementError{Text: text}
	for rule, n := range count {
		e.Refused = append(e.Refused, Refusal{Rule: rule, Cells: n})
	}
	sort.Slice(e.Refused, func(i, j int) bool {
		a, b := e.Refused[i], e.Refused[j]
		if a.Cells != b.Cells {
			return a.Cells > b.Cells
		}
		return a.Rule < b.Rule
	})
	return e
}

func lackBits(names string) int {
	bits := 0
	for _, n := range strings.Split(names, ", ") {
		if i := slices.Index(lackNames, n); i >= 0 {
			bits |= 1 << i
		}
	}
	return bits
}
