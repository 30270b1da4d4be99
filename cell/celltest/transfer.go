package celltest

import (
	"slices"
	"strings"
	"testing"

	"github.com/dewpoint-go/dewpoint/cell"
	"github.com/dewpoint-go/dewpoint/logs"
)

func testInputs(t *testing.T, c Cell) {
	app, lib := archive(t, "app/f", "the app"), archive(t, "f", "a library")
	w := c.work("w1", "cat=app/f", "cat=lib/f", "write=result.json:{\"a\":1}")
	w.Layers = []cell.Input{{Source: inline(app), Dir: "/home/vcap", SHA256: digest(app), Name: "droplet"}}
	w.Inputs = []cell.Input{{Source: inline(lib), Dir: "/home/vcap/lib", SHA256: digest(lib), Name: "library"}}
	w.Outputs = []cell.Output{{Path: "/home/vcap/result.json", Inline: true, MaxBytes: 100, Name: "result"}}
	s := ended(t, c, w)
	all := lines(t, c, "w1")
	expectLines(t, all, "STG Downloading droplet...", "STG Downloaded droplet (2K)", "STG Downloading library...", "STG Downloaded library (2K)",
		"STG the app", "STG a library", "STG Exit status 0", "STG Uploading result...", "STG Uploaded result (7B)", "STG Uploading complete")
	out := s.Outputs["/home/vcap/result.json"]
	if s.Failure != "" || string(out.Data) != `{"a":1}` || out.Size != 7 || out.SHA256 != digest(out.Data) {
		t.Errorf("status is %+v", s)
	}
}

func testWrongDigest(t *testing.T, c Cell) {
	data := archive(t, "f", "x")
	w := c.work("w1", "out=never")
	w.Inputs = []cell.Input{{Source: inline(data), Dir: "/tmp/in", SHA256: digest([]byte("other")), Name: "app package"}}
	s := ended(t, c, w)
	if s.Reason != cell.ReasonInput || !strings.HasPrefix(s.Failure, "Downloading app package failed: its SHA-256 is ") || s.Exit != nil {
		t.Errorf("status is %+v", s)
	}
	expectLines(t, lines(t, c, "w1"), "STG Downloading app package...", "STG Downloading app package failed")
	w = c.work("w2", "out=never")
	w.Layers = []cell.Input{{Source: inline(data), Dir: "/tmp/in", SHA256: digest([]byte("other")), Name: "droplet"}}
	if s := ended(t, c, w); s.Reason != cell.ReasonInput || !strings.HasPrefix(s.Failure, "Downloading droplet failed: its SHA-256 is ") {
		t.Errorf("status is %+v", s)
	}
}

func testOptional(t *testing.T, c Cell) {
	w := c.work("w1", "out=ran")
	w.Inputs = []cell.Input{{Source: "no-such-kind:x", Dir: "/tmp/cache", Name: "build artifacts cache", Optional: true}}
	if s := ended(t, c, w); s.Failure != "" {
		t.Errorf("status is %+v", s)
	}
	expectLines(t, lines(t, c, "w1"), "STG Downloading build artifacts cache...", "STG Downloading build artifacts cache failed", "STG ran")
	// One that turns out to be damaged when all of it is there is as if it had not come.
	data := archive(t, "f", "damaged")
	w = c.work("w2", "cat=lib/f")
	w.Inputs = []cell.Input{{Source: inline(data), Dir: "/home/vcap/lib", SHA256: digest([]byte("other")), Name: "library", Optional: true}}
	if s := ended(t, c, w); s.Failure != "" {
		t.Errorf("status is %+v", s)
	}
	expectLines(t, lines(t, c, "w2"), "STG Downloading library failed", "STG absent lib/f")
}

func testTooLarge(t *testing.T, c Cell) {
	w := c.work("w1", "write=out:123456")
	w.Outputs = []cell.Output{{Path: "/home/vcap/out", Inline: true, MaxBytes: 5}}
	if s := ended(t, c, w); s.Reason != cell.ReasonOutput || !strings.Contains(s.Failure, "larger than 5 bytes") || len(s.Outputs) != 0 {
		t.Errorf("status is %+v", s)
	}
	w = c.work("w2", "exit=0")
	w.Outputs = []cell.Output{{Path: "/home/vcap/absent", Inline: true, Name: "result"}}
	if s := ended(t, c, w); s.Reason != cell.ReasonOutput || !strings.HasPrefix(s.Failure, "Uploading result failed: ") {
		t.Errorf("status is %+v", s)
	}
}

func testOnFailure(t *testing.T, c Cell) {
	w := c.work("w1", "write=a:1", "write=b:2", "exit=1")
	w.Outputs = []cell.Output{{Path: "/home/vcap/a", Inline: true, OnFailure: true}, {Path: "/home/vcap/b", Inline: true},
		{Path: "/home/vcap/c", Inline: true, OnFailure: true}}
	s := ended(t, c, w)
	if len(s.Outputs) != 1 || string(s.Outputs["/home/vcap/a"].Data) != "1" || s.Failure != "STG: Exited with status 1" {
		t.Errorf("status is %+v", s)
	}
	if i := slices.IndexFunc(lines(t, c, "w1"), func(l logs.Line) bool { return strings.HasPrefix(l.Text, "Uploading") }); i >= 0 {
		t.Error("outputs without a name are told")
	}
}
