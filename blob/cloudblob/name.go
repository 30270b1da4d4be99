package cloudblob

import (
	"strings"

	"github.com/dewpoint-go/dewpoint/blob"
)

// How a key becomes the name of an object. Stores differ in what names they take (no "..",
// no "//", some fold case on disk, a "folder" and an object of one name collide), so a name
// has only a-z 0-9 - / ! = . ~ in it, and it keeps the order of the keys, for List has to be
// in their order and the stores list in that of names:
//
//   - 0-9 a-z   stay
//     /           stays; where it would follow another one or begin the name, it is ".~/"
//     below "-"   !xx  (hex)
//     "."         .2e
//     ":" to "`"  =xx
//     above "z"   ~xx
//     the end     !
//
// Each of "!", ".", "=" and "~" sorts among the plain bytes where the bytes it stands for do.
// A piece between two "/" that has become long is cut by one more "/", because the names of
// files end at 255 bytes; the cut depends only on what is before it.
const (
	end      = '!'
	slash    = ".~"
	maxPiece = 200
	hex      = "0123456789abcdef"
)

func plain(c byte) bool { return c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' }

// lead gives the byte that begins the escape of c.
func lead(c byte) byte {
	switch {
	case c < '-':
		return '!'
	case c == '.':
		return '.'
	case c <= '`':
		return '='
	}
	return '~'
}

// nameOf gives the object's name for a key.
func nameOf(key string) string {
	b, piece := escape(key)
	if piece >= maxPiece {
		b = append(b, '/')
	}
	return string(append(b, end))
}

// prefixOf gives what the names of all keys with a prefix begin with.
func prefixOf(prefix string) string {
	b, _ := escape(prefix)
	return string(b)
}

// escape tells, too, how long the last piece has become.
func escape(key string) (b []byte, piece int) {
	for i := range len(key) {
		if piece >= maxPiece {
			b, piece = append(b, '/'), 0
		}
		c := key[i]
		switch {
		case c == '/' && piece == 0:
			b = append(append(b, slash...), '/')
		case c == '/':
			b, piece = append(b, '/'), 0
		case plain(c):
			b, piece = append(b, c), piece+1
		default:
			b, piece = append(b, lead(c), hex[c>>4], hex[c&15]), piece+3
		}
	}
	return b, piece
}

// keyOf is the reverse of nameOf; false: an object of somebody else.
func keyOf(name string) (string, bool) {
	body, ok := strings.CutSuffix(name, string(end))
	if !ok {
		return "", false
	}
	key, piece := make([]byte, 0, len(body)), 0
	for i := 0; i < len(body); i++ {
		c := body[i]
		switch {
		case c == '/' && piece >= maxPiece: // a cut
			piece = 0
		case c == '/':
			key, piece = append(key, '/'), 0
		case plain(c):
			key, piece = append(key, c), piece+1
		case strings.HasPrefix(body[i:], slash+"/"):
			i++
		case i+2 < len(body):
			hi, lo := strings.IndexByte(hex, body[i+1]), strings.IndexByte(hex, body[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			key, piece = append(key, byte(hi<<4|lo)), piece+3
			i += 2
		default:
			return "", false
		}
	}
	// Only what nameOf makes is ours: another spelling would be a second blob of one key.
	return string(key), blob.CheckKey(string(key)) == nil && nameOf(string(key)) == name
}
