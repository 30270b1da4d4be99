package droplet_test

import (
	"bytes"
	"reflect"
	"testing"

	"github.com/dewpoint-go/dewpoint/droplet"
)

// FuzzReadStagingInfo: what was read can be written and is read the same again.
func FuzzReadStagingInfo(f *testing.F) {
	f.Add([]byte(`{"detected_buildpack":"go","start_command":"web && x","config":{"entrypoint_prefix":"/x"}}`))
	f.Add([]byte("start_command: |\n  a\n  b\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := droplet.ReadStagingInfo(bytes.NewReader(data))
		if err != nil {
			return
		}
		var b bytes.Buffer
		if err := droplet.WriteStagingInfo(&b, s); err != nil {
			t.Fatal(err)
		}
		again, err := droplet.ReadStagingInfo(&b)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(s, again) {
			t.Fatalf("%#v became %#v", s, again)
		}
	})
}
