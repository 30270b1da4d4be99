package buildpack

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"sync"
)

// Entry is one buildpack of a catalogue. It is plain data.
type Entry struct {
	// Name is letters, digits, "_" and "-"; unique together with Stack.
	Name string `json:"name"`
	// Stack that it is made for; "" fits every stack.
	Stack string `json:"stack,omitempty"`
	// Position in the order of detection, from 1 without gaps. 0 in Add: the last; in
	// Update: as it is.
	Position int `json:"position"`
	// Disabled ones are neither detected with nor allowed by name.
	Disabled bool `json:"disabled,omitempty"`
	// Locked refuses another Location or SHA256.
	Locked bool `json:"locked,omitempty"`
	// Location is where its bytes are: "dir:PATH" (a folder or an archive of this machine),
	// "blob:KEY" (SHA256 is required), the URL of a zip (http or https, a path that ends in
	// .zip; "#sha256=" and the digest may follow) or that of a git repository, "#" and a
	// branch, tag or full commit behind it if need be.
	Location string `json:"location"`
	// SHA256 of the archive, hex. For blobs required, for zips checked, for others ignored.
	SHA256 string `json:"sha256,omitempty"`
}

// ErrLocked is wrapped by the error of a change that a locked Entry refuses.
var ErrLocked = errors.New("the buildpack is locked")

// Lister tells which buildpacks there are, in the order of detection. *[Catalogue] is one;
// another may keep its entries in a database. List may be called by any number of goroutines.
type Lister interface {
	List() []Entry
}

// Catalogue is an ordered list of buildpacks in memory. The zero value is empty and ready.
// All methods may be called by any number of goroutines.
type Catalogue struct {
	mu      sync.RWMutex
	entries []Entry // in order; Position is index + 1
}

var (
	_         Lister = (*Catalogue)(nil)
	nameForm         = regexp.MustCompile(`^[A-Za-z0-9_-]+$`)
	sha256Hex        = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

func (e *Entry) check() error {
	if !nameForm.MatchString(e.Name) {
		return fmt.Errorf("buildpack %q: the name must be letters, digits, \"_\" and \"-\"", e.Name)
	}
	l, err := parseLocation(e.Location)
	if err != nil {
		return fmt.Errorf("buildpack %s: %w", e.Name, err)
	}
	if e.SHA256 != "" && !sha256Hex.MatchString(e.SHA256) {
		return fmt.Errorf("buildpack %s: sha256 %q is not 64 lower-case hex digits", e.Name, e.SHA256)
	}
	if l.kind == kindBlob && e.SHA256 == "" {
		return fmt.Errorf("buildpack %s: a blob needs its sha256, so that cells can share it", e.Name)
	}
	return nil
}

// Add puts a buildpack in at its Position, those behind it move on. One that exists is an
// error that wraps fs.ErrExist.
func (c *Catalogue) Add(e Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.index(e.Name, e.Stack) >= 0 {
		return fmt.Errorf("buildpack %s, stack %q: %w; update it instead", e.Name, e.Stack, fs.ErrExist)
	}
	c.insert(e)
	return nil
}

// Update replaces the buildpack of that name and stack. Absent: an error that wraps
// fs.ErrNotExist; locked: ErrLocked, if the bytes would change.
func (c *Catalogue) Update(e Entry) error {
	if err := e.check(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.index(e.Name, e.Stack)
	if i < 0 {
		return fmt.Errorf("buildpack %s, stack %q: %w; add it first", e.Name, e.Stack, fs.ErrNotExist)
	}
	old := c.entries[i]
	if old.Locked && (old.Location != e.Location || old.SHA256 != e.SHA256) {
		return fmt.Errorf("buildpack %s: %w; unlock it to change its bytes", e.Name, ErrLocked)
	}
	e.Position = cmp.Or(e.Position, old.Position)
	c.entries = slices.Delete(c.entries, i, i+1)
	c.insert(e)
	return nil
}

// Remove takes a buildpack out and tells whether it was there.
func (c *Catalogue) Remove(name, stack string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.index(name, stack)
	if i < 0 {
		return false
	}
	c.entries = slices.Delete(c.entries, i, i+1)
	c.number()
	return true
}

// List returns a copy of all entries, in order.
func (c *Catalogue) List() []Entry {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return slices.Clone(c.entries)
}

func (c *Catalogue) index(name, stack string) int {
	return slices.IndexFunc(c.entries, func(e Entry) bool { return e.Name == name && e.Stack == stack })
}

func (c *Catalogue) insert(e Entry) {
	at := len(c.entries)
	if e.Position > 0 {
		at = min(at, e.Position-1)
	}
	c.entries = slices.Insert(c.entries, at, e)
	c.number()
}

func (c *Catalogue) number() {
	for i := range c.entries {
		c.entries[i].Position = i + 1
	}
}

// fits tells whether an entry serves a stack. A stack that is not known is the cell's own
// choice, and any will do.
func (e *Entry) fits(stack string) bool { return e.Stack == "" || stack == "" || e.Stack == stack }

// enabled returns those that detection goes through, one of each name.
func enabled(all []Entry, stack string) []Entry {
	var out []Entry
	for _, e := range all {
		if e.Disabled || !e.fits(stack) || slices.ContainsFunc(out, func(o Entry) bool { return o.Name == e.Name }) {
			continue
		}
		out = append(out, e)
	}
	return out
}

// find returns the entry of a name that serves a stack; one made for that very stack first.
func find(all []Entry, name, stack string) (Entry, bool) {
	best, ok := Entry{}, false
	for _, e := range all {
		if e.Name != name || !e.fits(stack) {
			continue
		}
		if e.Stack == stack {
			return e, true
		}
		if !ok {
			best, ok = e, true
		}
	}
	return best, ok
}
