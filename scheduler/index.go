package scheduler

import (
	"math"
	"math/bits"
	"slices"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Scores are fixed-point numbers, so that a sum does not depend on its order and every
// machine comes to the same placement. What all cells use up of memory, disk and
// containers is at most a few units.
const (
	unit       = 1 << 32
	colocation = 1000 * unit // for each instance of the same process, or task, on the cell
	inFlight   = unit / 4    // for each work that is starting on the cell
	never      = math.MaxInt64
	// manyInFlight is how many of those count. It keeps an empty cell from being flooded, in steps that are
	// coarse beside one work's part of a cell; where every cell starts so many, what they hold decides.
	manyInFlight = 32
)

// fraction is used/total, in units.
func fraction(used, total int64) int64 {
	if used <= 0 {
		return 0
	}
	const most = unit << 10 // used up a thousand times over: enough to be the last choice
	hi, lo := bits.Mul64(uint64(used), unit)
	if hi >= uint64(total) {
		return most
	}
	q, _ := bits.Div64(hi, lo, uint64(total))
	return int64(min(q, most))
}

// filled is the mean of the fractions of what is counted.
func filled(u, total cell.Resources) int64 {
	var sum, n int64
	if total.Memory > 0 {
		sum += fraction(u.Memory, total.Memory)
		n++
	}
	if total.Disk > 0 {
		sum += fraction(u.Disk, total.Disk)
		n++
	}
	if total.Containers > 0 {
		sum += fraction(int64(u.Containers), int64(total.Containers))
		n++
	}
	if n > 1 {
		sum /= n
	}
	return sum
}

// base is how little a cell is liked, whatever is to be placed.
func base(c *CellView, binPack int64) int64 {
	return filled(c.Used, c.Total) + int64(min(c.Starting, manyInFlight))*inFlight + int64(c.order)*binPack
}

// added is what a work adds to the score of every cell of that size.
func added(s cell.Spec, total cell.Resources) int64 {
	return filled(cell.Resources{Memory: s.Memory, Disk: s.Disk, Containers: 1}, total)
}

// index finds, among cells that are alike, the one with the lowest score that fits, without
// looking at each. It answers as a look at each would.
type index struct {
	binPack int64
	zones   []indexZone // in order of name
}

type indexZone struct {
	name    string
	classes []*class
}

// class holds the cells that differ only in what they run.
type class struct {
	like  *CellView // any of them
	cells []*CellView
	size  int // a power of two
	tree  []node
}

// node sums up a range of cells: the least score, and the most that is free, not
// necessarily on one cell. Leaves are at size + position, in order of ID.
type node struct {
	low, lowTask      int64
	memory, disk, few int64
}

var closed = node{low: never, lowTask: never, memory: -1, disk: -1, few: -1}

// indexed returns the index, made anew if need be.
func (v *View) indexed(binPack int64) *index {
	if v.index != nil && v.index.binPack == binPack {
		return v.index
	}
	ix := &index{binPack: binPack}
	byKey := map[string]*class{}
	order := map[string]int{}
	for _, c := range v.Cells {
		if c.seq == 0 { // of a View made by hand
			v.seq++
			c.seq = v.seq
		}
		c.order = order[c.Zone]
		order[c.Zone]++
		key := classKey(c)
		k := byKey[key]
		if k == nil {
			k = &class{like: c}
			byKey[key] = k
			ix.add(k)
		}
		c.in, c.leaf = k, len(k.cells)
		k.cells = append(k.cells, c)
	}
	for _, k := range byKey {
		k.build(binPack)
	}
	v.index = ix
	return ix
}

func (ix *index) add(k *class) {
	i, ok := slices.BinarySearchFunc(ix.zones, k.like.Zone, func(z indexZone, name string) int { return strings.Compare(z.name, name) })
	if !ok {
		ix.zones = slices.Insert(ix.zones, i, indexZone{name: k.like.Zone})
	}
	ix.zones[i].classes = append(ix.zones[i].classes, k)
}

func classKey(c *CellView) string {
	var b strings.Builder
	part := func(s string) {
		b.WriteString(s)
		b.WriteByte(0)
	}
	number := func(n int64) {
		for range 8 {
			b.WriteByte(byte(n))
			n >>= 8
		}
	}
	part(c.Zone)
	number(c.Total.Memory)
	number(c.Total.Disk)
	number(int64(c.Total.Containers))
	part(c.Total.Isolation)
	if c.Total.Images {
		part("images")
	} else {
		part("")
	}
	for _, list := range [][]string{c.Total.Stacks, c.Tags, c.OptionalTags} {
		for _, s := range list {
			part(s)
		}
		b.WriteByte(1)
	}
	return b.String()
}

func (k *class) build(binPack int64) {
	for k.size = 1; k.size < len(k.cells); k.size *= 2 {
	}
	k.tree = make([]node, 2*k.size)
	for i := range k.size {
		k.tree[k.size+i] = closed
		if i < len(k.cells) {
			k.tree[k.size+i] = leafOf(k.cells[i], binPack)
		}
	}
	for i := k.size - 1; i > 0; i-- {
		k.tree[i] = both(&k.tree[2*i], &k.tree[2*i+1])
	}
}

func leafOf(c *CellView, binPack int64) node {
	if !c.open() {
		return closed
	}
	free := func(total, used int64) int64 {
		if total <= 0 {
			return never
		}
		return total - used
	}
	low := base(c, binPack)
	return node{
		low: low, lowTask: low + int64(c.Tasks)*colocation,
		memory: free(c.Total.Memory, c.Used.Memory), disk: free(c.Total.Disk, c.Used.Disk),
		few: free(int64(c.Total.Containers), int64(c.Used.Containers)),
	}
}

func both(a, b *node) node {
	return node{
		low: min(a.low, b.low), lowTask: min(a.lowTask, b.lowTask),
		memory: max(a.memory, b.memory), disk: max(a.disk, b.disk), few: max(a.few, b.few),
	}
}

// set brings the tree up to date with one of its cells.
func (k *class) set(c *CellView, binPack int64) {
	i := k.size + c.leaf
	k.tree[i] = leafOf(c, binPack)
	for i /= 2; i > 0; i /= 2 {
		n := both(&k.tree[2*i], &k.tree[2*i+1])
		if n == k.tree[i] {
			return
		}
		k.tree[i] = n
	}
}

// search is a question to a class.
type search struct {
	k            *class
	memory, disk int64
	task         bool
	own          *spread
	avoid        map[string]string

	best int64 // the lowest score found, never: none
	at   int   // and its leaf
}

func (s *search) low(n *node) int64 {
	if s.task {
		return n.lowTask
	}
	return n.low
}

// visit looks below a node for a cell without an instance of the process. Of equal scores the
// lowest ID wins. first is the first leaf below it.
func (s *search) visit(i, first, width int) {
	n := &s.k.tree[i]
	low := s.low(n)
	if low > s.best || low == never || low == s.best && first > s.at || n.memory < s.memory || n.disk < s.disk || n.few < 1 {
		return
	}
	if width == 1 {
		c := s.k.cells[first]
		if s.own != nil {
			if _, hosts := s.own.find(c.seq); hosts {
				return
			}
		}
		if len(s.avoid) > 0 {
			if _, no := s.avoid[c.ID]; no {
				return
			}
		}
		s.best, s.at = low, first
		return
	}
	width /= 2
	left, right := 2*i, 2*i+1
	if s.low(&s.k.tree[right]) < s.low(&s.k.tree[left]) {
		s.visit(right, first+width, width)
		s.visit(left, first, width)
		return
	}
	s.visit(left, first, width)
	s.visit(right, first+width, width)
}

// find returns the cell of the class that suits best, and its score without what the work adds.
func (k *class) find(w *Want, own *spread) (*CellView, int64) {
	s := search{k: k, memory: w.Spec.Memory, disk: w.Spec.Disk, task: w.LRP == "", own: own, avoid: w.Avoid, best: never}
	s.visit(1, 0, k.size)
	if own != nil && (s.best == never || s.best > colocation+k.tree[1].low) {
		// A cell that has instances of the process already may be the better one.
		for _, h := range own.cells {
			c := h.c
			if c.in != k || !c.open() || lacks(w.Spec, c) != 0 {
				continue
			}
			if _, no := w.Avoid[c.ID]; no {
				continue
			}
			score := k.tree[k.size+c.leaf].low + int64(h.n)*colocation
			if score < s.best || score == s.best && c.leaf < s.at {
				s.best, s.at = score, c.leaf
			}
		}
	}
	if s.best == never {
		return nil, never
	}
	return k.cells[s.at], s.best
}
