package catalog

import (
	"strings"
	"time"

	"github.com/dewpoint-go/dewpoint/state"
)

// State is where a blob stands in its life.
type State string

// The states of a blob.
const (
	Writing   State = "writing"   // its bytes are on the way; nobody may rely on it
	Kept      State = "kept"      // it is whole
	Condemned State = "condemned" // it is about to be deleted; there is no way back
)

// Blob is the row of one blob.
type Blob struct {
	Key    string `json:"key"`
	Kind   string `json:"kind"`
	Digest string `json:"digest,omitempty"` // SHA-256, 64 hex digits; once it is kept
	Size   int64  `json:"size,omitempty"`   // bytes
	Parts  int    `json:"parts,omitempty"`  // how many of its parts can be found
	State  State  `json:"state"`
	// Lost says that the store was asked for the bytes and had none. It is not found any
	// more, so that the same bytes can be put anew.
	Lost    bool      `json:"lost,omitempty"`
	Lease   Lease     `json:"lease"` // under which it was put, and which holds it while it lives
	Created time.Time `json:"created"`
}

func (b Blob) findable() bool { return b.State == Kept && !b.Lost }

func (b Blob) ref() Ref { return Ref{Kind: b.Kind, Digest: b.Digest, Key: b.Key, Size: b.Size} }

// Ref names a kept blob, or a part of one, for rows of others.
type Ref struct {
	Kind   string `json:"kind"`             // "package", "droplet", "cache", "buildpack", …
	Digest string `json:"digest"`           // SHA-256, 64 hex digits
	Key    string `json:"key"`              // what Open and Use want: that of the blob
	Offset int64  `json:"offset,omitempty"` // in the blob, of a part
	Size   int64  `json:"size"`             // bytes
}

// leaseRow is a lease that has not been released.
type leaseRow struct {
	ID      Lease     `json:"id"`
	Expires time.Time `json:"expires"`
}

// pin is a set of blobs that a lease holds although it did not put them. One row for all
// that one call pinned: 100,000 rows would cost seconds.
type pin struct {
	ID    string   `json:"id"`
	Lease Lease    `json:"lease"`
	Keys  []string `json:"keys"`
}

// reference says that owner needs the blob key.
type reference struct {
	Owner string `json:"owner"`
	Key   string `json:"key"`
}

func (r reference) id() string { return r.Owner + "\n" + r.Key }

func pair(kind, value string) string { return kind + "\n" + value }

var (
	blobs = state.NewTable("catalog_blobs", func(b Blob) string { return b.Key },
		state.Index[Blob]{Name: "digest", Unique: true, Keys: func(b Blob) []string {
			if !b.findable() {
				return nil
			}
			return []string{pair(b.Kind, b.Digest)}
		}},
		state.Index[Blob]{Name: "state", Keys: func(b Blob) []string {
			if b.State == Kept { // most are; the index is for the few
				return nil
			}
			return []string{string(b.State)}
		}})
	leases = state.NewTable("catalog_leases", func(l leaseRow) string { return string(l.ID) })
	pins   = state.NewTable("catalog_pins", func(p pin) string { return p.ID },
		state.Index[pin]{Name: "lease", Keys: func(p pin) []string { return []string{string(p.Lease)} }})
	references = state.NewTable("catalog_references", reference.id,
		state.Index[reference]{Name: "owner", Keys: func(r reference) []string { return []string{r.Owner} }},
		state.Index[reference]{Name: "key", Keys: func(r reference) []string { return []string{r.Key} }})
)

// Tables gives the tables that the DB of a Catalog has to be opened with.
func Tables() []state.AnyTable { return []state.AnyTable{blobs, listings, leases, pins, references} }

func first[T any](seq func(func(T) bool)) (v T, ok bool) {
	for v := range seq {
		return v, true
	}
	return v, false
}

// validKind keeps kinds fit to be the first part of a key.
func validKind(kind string) bool {
	return kind != "" && len(kind) <= 64 && strings.Trim(kind, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}
