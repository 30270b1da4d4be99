package logs_test

import (
	"encoding/json"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/logs"
)

func TestLinesTravelAsJSON(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	for _, c := range []struct {
		line logs.Line
		json string
	}{
		{logs.Line{App: "a", Source: "STG", Time: at, Text: "plain é \x00"},
			`{"app":"a","source":"STG","index":0,"time":"2026-01-02T03:04:05.000000006Z","text":"plain é \u0000"}`},
		{logs.Line{App: "a", Index: 2, Instance: "i", Stderr: true, Time: at, Text: "bin\xff\xfe!", Pos: 7},
			`{"app":"a","index":2,"instance":"i","time":"2026-01-02T03:04:05.000000006Z","stderr":true,"pos":7,"text":"bin\ufffd!","bytes":"Ymlu//4h"}`},
		{logs.Gap("a", 12, 40, at), `{"app":"a","source":"LOGS","index":0,"time":"2026-01-02T03:04:05.000000006Z","text":"12 lines are missing here: they are no longer kept","missing":12,"pos":40}`},
	} {
		data, err := json.Marshal(c.line)
		require.NoError(t, err)
		assert.JSONEq(t, c.json, string(data))
		var back logs.Line
		require.NoError(t, json.Unmarshal(data, &back))
		assert.Equal(t, c.line, back)
	}
	inside, err := json.Marshal([]*logs.Line{{Text: "\xff"}})
	require.NoError(t, err)
	var back []logs.Line
	require.NoError(t, json.Unmarshal(inside, &back))
	assert.Equal(t, "\xff", back[0].Text)
	require.Error(t, json.Unmarshal([]byte(`{"bytes":"no base64!"}`), &back[0]))
}

// FuzzLineJSON holds that any text comes back byte for byte, and that no input breaks the reading.
func FuzzLineJSON(f *testing.F) {
	for _, s := range []string{"", "text", "\xff\x00", `{"text":"\ud800"}`, `{"text":"a","bytes":"AA=="}`, `"bytes"`, "\u2028<é"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		want := logs.Line{App: "a", Text: string(data), Pos: 3}
		text, err := json.Marshal(want)
		if err != nil || !utf8.Valid(text) {
			t.Fatalf("%q: %v", text, err)
		}
		var got logs.Line
		if err := json.Unmarshal(text, &got); err != nil || got != want {
			t.Fatalf("%q comes back as %q: %v", want.Text, got.Text, err)
		}
		var l logs.Line
		if json.Unmarshal(data, &l) != nil {
			return
		}
		again, err := json.Marshal(l)
		if err != nil {
			return // a year that JSON cannot hold
		}
		var back logs.Line
		if err := json.Unmarshal(again, &back); err != nil || back.Text != l.Text || back.Pos != l.Pos {
			t.Fatalf("%+v comes back as %+v: %v", l, back, err)
		}
	})
}
