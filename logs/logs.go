package logs

import (
	"context"
	"iter"
	"time"
)

// Line is one line of output. It is plain data and travels as JSON.
type Line struct {
	// App is the id of the app that the line belongs to; "" for lines of no app.
	App string `json:"app,omitempty"`
	// Source says who speaks, in Cloud Foundry's words: "API", "STG", "CELL",
	// "APP/PROC/WEB", "HEALTH", "RTR".
	Source string `json:"source,omitempty"`
	// Index is the instance's index; 0 where there are no instances.
	Index int `json:"index"`
	// Instance is the id of the work that printed the line; "" where none did.
	Instance string `json:"instance,omitempty"`
	// Time is when the line was read from the process.
	Time time.Time `json:"time"`
	// Stderr tells that the line came from standard error.
	Stderr bool `json:"stderr,omitempty"`
	// Text is the line without its line feed. It may hold any bytes.
	Text string `json:"text"`
	// Pos is the line's place in the stream that it was read from. To go on after this
	// line, read from this Position.
	Pos Position `json:"pos,omitempty"`
}

// Position is a point in one stream of lines: that after a line. The zero Position is
// the stream's beginning. Positions of one stream grow; nothing else may be read from them.
type Position uint64

// Store keeps lines and gives them back. All methods may be called by any number of
// goroutines; none blocks on a reader: a reader that hangs loses lines, nobody else does.
// The conformance suite is logstest.Run.
type Store interface {
	// Append takes a line in. Lines of one caller keep their order. The Store sets Pos. A line
	// that can't be kept is lost; the next reader is told so.
	Append(line Line)
	// Read yields the lines of an app that come after from and are kept when it begins, oldest
	// first. With follow it goes on with each line that comes, and waits for more until ctx ends
	// (which is the end, not an error). Where lines after from are no longer kept, a Line with
	// Source "LOGS" that says how many are missing stands in their place. An app that is not
	// known has no lines yet: that is no error.
	Read(ctx context.Context, app string, from Position, follow bool) iter.Seq2[Line, error]
	// Tail returns at most n of the newest lines of an app, oldest first.
	Tail(app string, n int) []Line
	// Drop forgets the lines of an app; unknown: nothing. Those who follow it go on with the
	// lines that come after.
	Drop(app string)
}
