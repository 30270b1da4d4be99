package router_test

import (
	"testing"

	"github.com/dewpoint-go/dewpoint/router"
	"github.com/dewpoint-go/dewpoint/router/routertest"
)

// FuzzSmuggling holds that an app gets no request that the server in front did not read.
func FuzzSmuggling(f *testing.F) {
	for _, s := range routertest.Shapes() {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := routertest.Smuggle(router.New(router.Config{}), data); err != nil {
			t.Errorf("%q: %v", data, err)
		}
	})
}
