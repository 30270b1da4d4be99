package catalog

import (
	"encoding/hex"
	"sync"

	"github.com/dewpoint-go/dewpoint/state"
)

// index finds parts of kept blobs by kind and alias. It is a map beside the tables, since a
// push asks for 100,000 of them: a look-up in a table takes microseconds, and a row for
// each file some hundred bytes.
//
// It holds no truth. What it finds is still there if no blob was taken out of reach since
// (begun has not moved) and all that were have left the map (open is empty); else the caller
// asks the table in its Update, where nothing can change.
type index struct {
	mu    sync.RWMutex
	kinds map[string]map[sum]place // nil: not made yet
	begun uint64                   // removals, counted inside the Updates that make them
	open  map[uint64]struct{}      // those that have not left the map
	// broken: the outcome of a removal is not known, so one of open stays for ever.
	broken bool
}

// sum is a SHA-1.
type sum [20]byte

// place is where a part lies.
type place struct {
	key          string
	digest       [32]byte
	offset, size int64
}

// look returns the Ref of each alias, the zero Ref for what is not there; gen and sure are
// for still.
func (x *index) look(db *state.DB, kind string, aliases []string) (refs []Ref, n int, gen uint64, sure bool) {
	x.mu.RLock()
	if x.kinds == nil {
		x.mu.RUnlock()
		x.make(db, 0)
		x.mu.RLock()
	}
	defer x.mu.RUnlock()
	refs = make([]Ref, len(aliases))
	of := x.kinds[kind]
	// All digests are pieces of one string, which is one piece of garbage.
	var digests []byte
	var s sum
	var buf [2 * len(s)]byte
	for i, a := range aliases {
		if len(a) != len(buf) {
			continue
		}
		copy(buf[:], a)
		if _, err := hex.Decode(s[:], buf[:]); err != nil {
			continue
		}
		if p, ok := of[s]; ok {
			refs[i] = Ref{Kind: kind, Key: p.key, Offset: p.offset, Size: p.size}
			digests = hex.AppendEncode(digests, p.digest[:])
			n++
		}
	}
	all := string(digests)
	for i := range refs {
		if refs[i].Key != "" {
			refs[i].Digest, all = all[:2*len(place{}.digest)], all[2*len(place{}.digest):]
		}
	}
	return refs, n, x.begun, len(x.open) == 0
}

// still tells, inside an Update, whether all that look found is still to be found.
func (x *index) still(gen uint64) bool {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.begun == gen
}

// count returns how many removals were begun; inside an Update all of them are over, and
// what they did is durable when the Update is.
func (x *index) count() uint64 {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.begun
}

// make fills the map from what is durable. upTo: the removals that are so for certain.
func (x *index) make(db *state.DB, upTo uint64) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.kinds != nil && !x.broken {
		return
	}
	x.kinds = map[string]map[sum]place{}
	view := db.View()
	for row := range blobs.All(view) {
		x.put(view, row)
	}
	for id := range x.open {
		if id <= upTo {
			delete(x.open, id)
		}
	}
	x.broken = x.broken && upTo == 0
}

func (x *index) put(r state.Reader, row Blob) {
	if !row.findable() || row.Parts == 0 {
		return
	}
	of := x.kinds[row.Kind]
	if of == nil {
		of = map[sum]place{}
		x.kinds[row.Kind] = of
	}
	list, _ := listings.Get(r, row.Key)
	for s, p := range decode(row.Key, list.List) {
		of[s] = p
	}
}

// add makes a blob known once it is durable. It asks the table again, for the blob may have
// been taken out of reach since.
func (x *index) add(db *state.DB, key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.kinds == nil {
		return
	}
	view := db.View()
	if row, ok := blobs.Get(view, key); ok {
		x.put(view, row)
	}
}

// removal is one Update that takes blobs out of reach.
type removal struct {
	x    *index
	id   uint64
	rows []removed
}

type removed struct {
	kind string
	contents
}

// note is called inside the Update for each blob.
func (r *removal) note(tx *state.Tx, row Blob) {
	if row.Parts == 0 {
		return
	}
	if r.id == 0 {
		r.x.mu.Lock()
		r.x.begun++
		r.id = r.x.begun
		if r.x.open == nil {
			r.x.open = map[uint64]struct{}{}
		}
		r.x.open[r.id] = struct{}{}
		r.x.mu.Unlock()
	}
	list, _ := listings.Get(tx, row.Key)
	r.rows = append(r.rows, removed{row.Kind, list})
}

// end is called after the Update, with its error.
func (r *removal) end(err error) {
	if r.id == 0 {
		return
	}
	r.x.mu.Lock()
	defer r.x.mu.Unlock()
	if err != nil { // it may be done all the same
		r.x.broken = true
		return
	}
	for _, row := range r.rows {
		of := r.x.kinds[row.kind]
		for s := range decode(row.Key, row.List) {
			if of[s].key == row.Key {
				delete(of, s)
			}
		}
	}
	delete(r.x.open, r.id)
}
