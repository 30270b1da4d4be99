package logs

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"strings"
	"time"
	"unicode/utf8"
)

// Line is one line of output. It is plain data and travels as JSON.
type Line struct {
	// App is the id of the app that the line belongs to; "" for lines of no app.
	App string `json:"app,omitempty"`
	// Source says who speaks, in Cloud Foundry's words: "API", "STG", "CELL",
	// "APP/PROC/WEB", "HEALTH", "RTR"; and "LOGS", which says that lines are missing.
	Source string `json:"source,omitempty"`
	// Index is the instance's index; 0 where there are no instances.
	Index int `json:"index"`
	// Instance is the id of the work that printed the line; "" where none did.
	Instance string `json:"instance,omitempty"`
	// Time is when the line was read from the process.
	Time time.Time `json:"time"`
	// Stderr tells that the line came from standard error.
	Stderr bool `json:"stderr,omitempty"`
	// Text is the line without its line feed. It may hold any bytes. Where they are not UTF-8,
	// the JSON has a form for the eye as "text", and the bytes in base64 as "bytes".
	Text string `json:"text"`
	// Missing, if not 0, tells that the line, whose Source is "LOGS", stands for that many
	// lines which are not here.
	Missing uint64 `json:"missing,omitempty"`
	// Pos is the line's place in the stream that it was read from. To go on after this
	// line, read from this Position.
	Pos Position `json:"pos,omitempty"`
}

// plain is a Line as encoding/json sees it without our methods.
type plain Line

// raw is a line whose text is not UTF-8.
type raw struct {
	plain
	Text  string `json:"text"`
	Bytes []byte `json:"bytes,omitempty"`
}

// MarshalJSON implements json.Marshaler. Every byte of Text comes back.
func (l Line) MarshalJSON() ([]byte, error) {
	if utf8.ValidString(l.Text) {
		return json.Marshal(plain(l))
	}
	return json.Marshal(raw{plain(l), strings.ToValidUTF8(l.Text, "\uFFFD"), []byte(l.Text)})
}

// UnmarshalJSON implements json.Unmarshaler.
func (l *Line) UnmarshalJSON(data []byte) error {
	if !bytes.Contains(data, []byte(`"bytes"`)) {
		return json.Unmarshal(data, (*plain)(l))
	}
	var r raw
	if err := json.Unmarshal(data, &r); err != nil {
		return err
	}
	*l = Line(r.plain)
	l.Text = r.Text
	if r.Bytes != nil {
		l.Text = string(r.Bytes)
	}
	return nil
}

// Gap returns the line that stands for n lines of an app that are missing up to pos. When is
// the time of what follows.
func Gap(app string, n uint64, pos Position, when time.Time) Line {
	l := Line{App: app, Source: "LOGS", Time: when, Missing: n, Pos: pos, Text: "1 line is missing here: it is no longer kept"}
	if n != 1 {
		l.Text = fmt.Sprintf("%d lines are missing here: they are no longer kept", n)
	}
	return l
}

// Position is a point in one stream of lines: that after a line. The zero Position is
// the stream's beginning. Positions of one stream grow; nothing else may be read from them.
type Position uint64

// Store keeps lines and gives them back. All methods may be called by any number of
// goroutines; none blocks on a reader: a reader that hangs loses lines, nobody else does.
// The conformance suite is logstest.Run.
type Store interface {
	// Append takes a line in. Lines of one caller keep their order. The Store sets Pos. A line
	// that can't be kept is lost; the next reader is told so. An app's own lines don't push out
	// those of its staging (Source "STG"), which its user asks for later.
	Append(line Line)
	// Read yields the lines of an app that come after from and are kept when it begins, oldest
	// first. With follow it goes on with each line that comes, and waits for more until ctx ends
	// (which is the end, not an error). Where lines after from are no longer kept, a [Gap] that says
	// how many are missing stands in their place. An app that is not known has no lines yet:
	// that is no error. A Position that is beyond the newest line comes from another stream, such as
	// that before a restart, and means the beginning. After an error nothing follows; what was read
	// last is where to go on.
	Read(ctx context.Context, app string, from Position, follow bool) iter.Seq2[Line, error]
	// Tail returns at most n of the newest lines of an app that are kept, oldest first.
	Tail(app string, n int) []Line
	// Drop forgets the lines of an app; unknown: nothing. Those who follow it go on with the
	// lines that come after. A Position from before it means the beginning of these.
	Drop(app string)
}
