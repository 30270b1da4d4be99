package scheduler

import (
	"slices"
	"sort"

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
// Once it is in a View that a Policy was asked about, only the View's methods change it.
type CellView struct {
	ID           string
	Zone         string
	Tags         []string       // only work that asks for all of them comes here
	OptionalTags []string       // work may ask for them, too
	Total        cell.Resources // a Memory, Disk or Containers of 0 is not counted
	Used         cell.Resources // Memory, Disk and Containers
	Starting     int            // works that do not run yet
	Tasks        int
	Draining     bool
	Reachable    bool // it answers, and has told what it runs

	in    *class // of the View's index
	leaf  int
	seq   int64 // by which a spread finds it
	order int   // among the cells of its zone
}

// open tells whether the cell takes work at all.
func (c *CellView) open() bool { return c.Reachable && !c.Draining }

// View is what a Policy may look at: the cells, and how many instances of each process
// they have. Reading methods may be called by several goroutines if nobody changes it.
type View struct {
	Cells []*CellView // in order of ID

	spread   map[string]*spread
	index    *index // nil: to be made when it is needed
	starting int
	seq      int64
}

// NewView returns a View of cells, which it then owns. Their Used, Starting and Tasks
// count for what they run of others.
func NewView(cells ...*CellView) *View {
	v := &View{}
	for _, c := range cells {
		v.join(c)
	}
	return v
}

// spread tells where the instances of one process are.
type spread struct {
	cells []hosted // in order of seq
	zones []zoneCount
}

type hosted struct {
	c *CellView
	n int
}

// zoneCount is in a list because zones are few: comparing beats hashing.
type zoneCount struct {
	zone string
	n    int
}

func (s *spread) find(seq int64) (int, bool) {
	if s == nil {
		return 0, false
	}
	if len(s.cells) <= 8 {
		for i := range s.cells {
			if s.cells[i].c.seq >= seq {
				return i, s.cells[i].c.seq == seq
			}
		}
		return len(s.cells), false
	}
	i := sort.Search(len(s.cells), func(i int) bool { return s.cells[i].c.seq >= seq })
	return i, i < len(s.cells) && s.cells[i].c.seq == seq
}

// on returns how many instances a cell has.
func (s *spread) on(c *CellView) int {
	if i, ok := s.find(c.seq); ok {
		return s.cells[i].n
	}
	return 0
}

func (s *spread) inZone(zone string) int {
	if s != nil {
		for i := range s.zones {
			if s.zones[i].zone == zone {
				return s.zones[i].n
			}
		}
	}
	return 0
}

func (s *spread) add(c *CellView, n int) {
	i, ok := s.find(c.seq)
	if !ok {
		s.cells = slices.Insert(s.cells, i, hosted{c: c})
	}
	if s.cells[i].n += n; s.cells[i].n <= 0 {
		s.cells = slices.Delete(s.cells, i, i+1)
	}
	s.addZone(c.Zone, n)
}

func (s *spread) addZone(zone string, n int) {
	i := slices.IndexFunc(s.zones, func(z zoneCount) bool { return z.zone == zone })
	if i < 0 {
		i = len(s.zones)
		s.zones = append(s.zones, zoneCount{zone: zone})
	}
	if s.zones[i].n += n; s.zones[i].n <= 0 {
		s.zones = slices.Delete(s.zones, i, i+1)
	}
}

// Instances returns how many instances of a process a cell has.
func (v *View) Instances(lrp string, c *CellView) int { return v.spread[lrp].on(c) }

// InZone returns how many instances of a process a zone has.
func (v *View) InZone(lrp, zone string) int { return v.spread[lrp].inZone(zone) }

// Cell returns the cell of an id, or nil.
func (v *View) Cell(id string) *CellView {
	i := sort.Search(len(v.Cells), func(i int) bool { return v.Cells[i].ID >= id })
	if i < len(v.Cells) && v.Cells[i].ID == id {
		return v.Cells[i]
	}
	return nil
}

// Commit counts a work as starting on a cell, as if it had been sent there. A cell that is not
// in the View: nothing, and false.
func (v *View) Commit(w Want, cellID string) bool {
	c := v.Cell(cellID)
	if c == nil {
		return false
	}
	v.take(c, loadOf(w.LRP, w.Spec, true))
	return true
}

// join adds a cell.
func (v *View) join(c *CellView) {
	v.seq++
	c.seq = v.seq
	i := sort.Search(len(v.Cells), func(i int) bool { return v.Cells[i].ID >= c.ID })
	v.Cells = slices.Insert(v.Cells, i, c)
	v.starting += c.Starting
	v.index = nil
}

// leave takes a cell away, with all that is counted on it.
func (v *View) leave(c *CellView) {
	i := slices.Index(v.Cells, c)
	if i < 0 {
		return
	}
	v.Cells = slices.Delete(v.Cells, i, i+1)
	v.starting -= c.Starting
	v.index = nil
	for lrp, s := range v.spread {
		if n := s.on(c); n > 0 {
			if s.add(c, -n); len(s.cells) == 0 {
				delete(v.spread, lrp)
			}
		}
	}
}

// describe changes what a cell says of itself.
func (v *View) describe(c *CellView, zone string, required, optional []string, total cell.Resources, draining, reachable bool) {
	if c.Zone != zone {
		for _, s := range v.spread {
			if n := s.on(c); n > 0 {
				s.addZone(c.Zone, -n)
				s.addZone(zone, n)
			}
		}
	}
	same := c.Zone == zone && slices.Equal(c.Tags, required) && slices.Equal(c.OptionalTags, optional) && sameTotal(c.Total, total)
	c.Zone, c.Tags, c.OptionalTags, c.Total, c.Draining, c.Reachable = zone, required, optional, total, draining, reachable
	if !same {
		v.index = nil
	}
	v.changed(c)
}

// reachable changes whether a cell answers.
func (v *View) reachable(c *CellView, yes bool) {
	if c.Reachable != yes {
		c.Reachable = yes
		v.changed(c)
	}
}

func sameTotal(a, b cell.Resources) bool {
	return a.Memory == b.Memory && a.Disk == b.Disk && a.Containers == b.Containers && a.Isolation == b.Isolation && a.Images == b.Images && slices.Equal(a.Stacks, b.Stacks)
}

// load is what a work takes of a cell.
type load struct {
	memory, disk int64
	lrp          string
	starting     bool
}

func loadOf(lrp string, s cell.Spec, starting bool) load {
	return load{memory: s.Memory, disk: s.Disk, lrp: lrp, starting: starting}
}

// take counts a load on a cell.
func (v *View) take(c *CellView, l load) {
	c.Used.Memory += l.memory
	c.Used.Disk += l.disk
	c.Used.Containers++
	if l.starting {
		c.Starting++
		v.starting++
	}
	if l.lrp == "" {
		c.Tasks++
	} else {
		s := v.spread[l.lrp]
		if s == nil {
			if v.spread == nil {
				v.spread = map[string]*spread{}
			}
			s = &spread{}
			v.spread[l.lrp] = s
		}
		s.add(c, 1)
	}
	v.changed(c)
}

// give takes a load back.
func (v *View) give(c *CellView, l load) {
	c.Used.Memory -= l.memory
	c.Used.Disk -= l.disk
	c.Used.Containers--
	if l.starting {
		c.Starting--
		v.starting--
	}
	if l.lrp == "" {
		c.Tasks--
	} else if s := v.spread[l.lrp]; s != nil {
		if s.add(c, -1); len(s.cells) == 0 {
			delete(v.spread, l.lrp)
		}
	}
	v.changed(c)
}

// started changes whether a load counts as starting.
func (v *View) started(c *CellView, starting bool) {
	n := -1
	if starting {
		n = 1
	}
	c.Starting += n
	v.starting += n
	v.changed(c)
}

// changed brings the index up to date.
func (v *View) changed(c *CellView) {
	if v.index != nil && c.in != nil {
		c.in.set(c, v.index.binPack)
	}
}
