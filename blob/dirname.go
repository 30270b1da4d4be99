package blob

import (
	"strings"
)

// How Dir names files. A key is cut at each "/" into folders, so that a person finds her
// way, and each piece is escaped to what every file system takes and tells apart:
//
//	a-z 0-9 _ -   stay
//	other bytes   %xx, lower-case hex: also upper case, for file systems that fold case
//	con, nul, …   the first byte is escaped: Windows keeps these names for devices
//
// A folder is called as its piece, a blob has fileSuffix added, and a piece that is too
// long for a name is cut: its head is a folder with longSuffix added. So a key has exactly
// one path, "a" and "a/b" can both be there, and a walk that sorts each folder by
// entry.compare meets the keys in byte order.
const (
	fileSuffix = ".blob"
	longSuffix = "+"
	// maxPiece is below the usual 255 bytes of a name and leaves room for the suffixes.
	maxPiece = 200
	// maxFolders is how many "/" make folders; in the rest of the key "/" is escaped, so
	// that a key of slashes does not cost a folder each.
	maxFolders = 8
)

const hexDigits = "0123456789abcdef"

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '_' || c == '-'
}

// pathOf gives the path of a key's file, with "/" between folders.
func pathOf(key string) string {
	var path strings.Builder
	for depth := 0; ; depth++ {
		piece, n := nextPiece(key, depth < maxFolders)
		path.WriteString(piece)
		key = key[n:]
		switch {
		case key == "":
			path.WriteString(fileSuffix)
			return path.String()
		case len(piece) <= maxPiece-3 && depth < maxFolders: // it ended at a "/"
			key = key[1:]
			if key == "" { // the key ends with "/": an empty piece is a file called ".blob"
				path.WriteString("/" + fileSuffix)
				return path.String()
			}
		default:
			path.WriteString(longSuffix)
		}
		path.WriteByte('/')
	}
}

// nextPiece escapes the head of key up to a "/" (never the first byte, so that a piece is
// not empty), or until no further byte is sure to fit. It tells how much of key that is.
func nextPiece(key string, cut bool) (piece string, n int) {
	var b strings.Builder
	for ; n < len(key) && b.Len() <= maxPiece-3; n++ {
		c := key[n]
		if cut && c == '/' && n > 0 {
			break
		}
		if plain(c) {
			b.WriteByte(c)
			continue
		}
		b.Write([]byte{'%', hexDigits[c>>4], hexDigits[c&15]})
	}
	piece = b.String()
	if device(piece) {
		piece = string([]byte{'%', hexDigits[piece[0]>>4], hexDigits[piece[0]&15]}) + piece[1:]
	}
	return piece, n
}

func device(piece string) bool {
	switch piece {
	case "con", "prn", "aux", "nul":
		return true
	}
	return len(piece) == 4 && (piece[:3] == "com" || piece[:3] == "lpt") && '0' <= piece[3] && piece[3] <= '9'
}

// An entry is a name in a folder, understood.
type entry struct {
	name   string
	raw    string // the bytes of the key that the name stands for, with the "/" of a folder
	folder bool
}

// compare: a file "a" comes before the folder "a/", and the long folder of "a" after it.
func (e entry) compare(o entry) int {
	if c := strings.Compare(e.raw, o.raw); c != 0 {
		return c
	}
	switch {
	case e.folder == o.folder:
		return 0
	case o.folder:
		return -1
	}
	return 1
}

// parseEntry is the reverse of pathOf for one name; false: no name that Dir gives.
func parseEntry(name string, isDir bool) (entry, bool) {
	e := entry{name: name, folder: isDir}
	var piece string
	var long bool
	if isDir {
		piece, long = strings.CutSuffix(name, longSuffix)
	} else {
		var ok bool
		if piece, ok = strings.CutSuffix(name, fileSuffix); !ok {
			return e, false
		}
	}
	raw := make([]byte, 0, len(piece))
	for i := 0; i < len(piece); i++ {
		switch c := piece[i]; {
		case plain(c):
			raw = append(raw, c)
		case c == '%' && i+2 < len(piece):
			hi, lo := strings.IndexByte(hexDigits, piece[i+1]), strings.IndexByte(hexDigits, piece[i+2])
			if hi < 0 || lo < 0 {
				return e, false
			}
			raw = append(raw, byte(hi<<4|lo))
			i += 2
		default:
			return e, false
		}
	}
	if isDir && !long {
		raw = append(raw, '/')
	}
	e.raw = string(raw)
	return e, true
}
