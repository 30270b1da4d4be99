package blob

import (
	"errors"
	"fmt"
	"unicode/utf8"
)

// MaxKey is the greatest length of a key, in bytes: what still fits into the 1024 bytes of
// a name in the large object stores when each byte has to be escaped to three and a prefix
// is added.
const MaxKey = 256

// ErrInvalidKey is what a Store answers, wrapped, to a key that no Store keeps.
var ErrInvalidKey = errors.New("invalid key")

// CheckKey tells whether a Store keeps blobs under key; the error wraps [ErrInvalidKey]
// and says why not. It is here for authors of Stores.
func CheckKey(key string) error {
	switch {
	case key == "":
		return fmt.Errorf("blob: %w: it is empty", ErrInvalidKey)
	case len(key) > MaxKey:
		return fmt.Errorf("blob: %w: %d bytes, at most %d are kept: %.40q…", ErrInvalidKey, len(key), MaxKey, key)
	case !utf8.ValidString(key):
		return fmt.Errorf("blob: %w: not UTF-8: %q", ErrInvalidKey, key)
	}
	return nil
}
