// Package overlay shows folders as one, on Linux.
package overlay

// Overlay is a folder in which others are seen, one upon the other, and which may be written to. It is plain data.
type Overlay struct {
	Root  string   `json:"root"`
	At    string   `json:"at"`              // below Root; made if need be
	Owner int      `json:"owner,omitempty"` // of folders that are made; 0: who makes them
	Upper string   `json:"upper"`           // takes what is written
	Work  string   `json:"work"`            // beside Upper, the kernel's own
	Lower []string `json:"lower"`           // the lowest first
}
