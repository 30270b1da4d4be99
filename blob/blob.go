package blob

import (
	"context"
	"io"
	"iter"
	"time"
)

// Info describes one blob.
type Info struct {
	Key  string
	Size int64 // bytes
	// SHA256 is 64 lower-case hex digits. Only Put promises it; Stat and List may
	// leave it empty.
	SHA256 string
	// Modified is when the blob was put; the zero time where a Store does not know.
	Modified time.Time
}

// Store keeps immutable bytes by key.
//
// A key is any non-empty valid UTF-8 string of at most 256 bytes; "/" has no meaning but
// for the reader, and names that a file system would find hostile ("..", "a//b", "con",
// a leading "/") are ordinary keys. A Store refuses an invalid key with [ErrInvalidKey].
//
// All methods may be called by any number of goroutines. Each ends soon after its
// context does, with an error that wraps the context's.
// The conformance suite is blobtest.Run.
type Store interface {
	// Put stores what r yields until io.EOF. All or nothing: if r fails or ctx ends, nothing
	// can be seen under key, and an earlier blob of that key stays as it was. Only when the
	// store itself breaks at the very end (an answer is lost, a sync fails) may the whole new
	// blob be there despite the error; a part of one never is. Durable on return. Of concurrent writers of one key, one whole blob wins.
	// The Info has Size and SHA256. ctx is looked at between reads of r: to end a read
	// that blocks is up to whoever made r.
	Put(ctx context.Context, key string, r io.Reader) (Info, error)
	// Get opens a blob. If there is none: errors.Is(err, fs.ErrNotExist). A reader that
	// is open goes on to deliver the same bytes if the key is deleted or put again; ctx
	// has to last as long as the reader does.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// Stat tells size; absent as for Get.
	Stat(ctx context.Context, key string) (Info, error)
	// Delete removes a blob; absent is nil.
	Delete(ctx context.Context, key string) error
	// List yields the blobs whose keys begin with prefix, in byte order of keys, one
	// after the other; the first error ends it. A blob that is put or deleted meanwhile may
	// be missing or present; all others are yielded exactly once.
	List(ctx context.Context, prefix string) iter.Seq2[Info, error]
}

// Ranger is an optional power of a Store: to read a part of a blob.
type Ranger interface {
	// GetRange opens length bytes from offset; a negative length means to the end. A
	// range that begins at or after the end is empty; one that goes beyond it is cut.
	GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error)
}

// URLSigner is an optional power of a Store: to lend a blob by URL.
type URLSigner interface {
	// SignedURL returns an address at which anyone can GET the blob until it expires.
	SignedURL(ctx context.Context, key string, valid time.Duration) (string, error)
}
