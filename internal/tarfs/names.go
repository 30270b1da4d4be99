package tarfs

import (
	"hash/maphash"
	"path"

	"golang.org/x/text/cases"
	"golang.org/x/text/unicode/norm"
)

// names judges the names of one archive, one after the other.
type names struct {
	l     Limits
	count int
	held  int // bytes
	seed  maphash.Seed
	// seen maps the hash of a name (folded, if Fold is set) to that of the exact one:
	// hashes, because half a million names would be much to keep.
	seen map[uint64]uint64
}

func newNames(l Limits) names {
	n := names{l: l, seed: maphash.MakeSeed()}
	if l.Unique || l.Fold {
		n.seen = map[uint64]uint64{}
	}
	return n
}

// admit returns the clean name of an entry.
func (n *names) admit(e Entry) (string, error) {
	if err := n.implied(""); err != nil {
		return "", err
	}
	name, err := clean(e.Name, n.l)
	if err == nil && n.seen != nil {
		err = n.once(e, name)
	}
	return name, err
}

// implied counts an entry, or a folder that an entry implies.
func (n *names) implied(name string) error {
	if n.count++; n.l.Entries > 0 && n.count > n.l.Entries {
		return refuse(name, "it holds more than %d entries", n.l.Entries)
	}
	return nil
}

// hold counts a name that has to be held in memory until the end.
func (n *names) hold(name string) error {
	if n.held += len(name); n.held > MaxNames {
		return refuse(name, "the names of folders take more than %d bytes", MaxNames)
	}
	return nil
}

// once refuses names that were there before, by the rules of Unique and Fold.
func (n *names) once(e Entry, name string) error {
	if name == "." {
		return nil
	}
	if n.l.Fold {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			exact := maphash.String(n.seed, dir) | 1
			folded := maphash.String(n.seed, fold(dir))
			was, ok := n.seen[folded]
			if ok && was|1 != exact {
				return refuse(e.Name, "its folder differs from another only in case or Unicode form")
			}
			if ok {
				break // and so are its parents
			}
			n.seen[folded] = exact
		}
	}
	// The last bit tells a name that an entry had from a folder that was only on the way.
	exact, key := maphash.String(n.seed, name)|1, maphash.String(n.seed, name)
	if n.l.Fold {
		key = maphash.String(n.seed, fold(name))
	}
	was, ok := n.seen[key]
	switch {
	case ok && was|1 != exact:
		return refuse(e.Name, "its name differs from another only in case or Unicode form")
	case ok && was&1 == 0 && n.l.Unique:
		return refuse(e.Name, "its name occurs twice")
	}
	n.seen[key] = exact &^ 1
	return nil
}

func fold(s string) string { return norm.NFC.String(cases.Fold().String(norm.NFD.String(s))) }
