//go:build linux

package main

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dewpoint-go/dewpoint/internal/needs"
)

// TestWithoutRoot runs tests again as a newcomer without any power does, where they were run as root.
func TestWithoutRoot(t *testing.T) {
	t.Parallel()
	prepare := func(home string) (string, []string) {
		bin, examples := filepath.Join(home, "bin"), filepath.Join(home, "examples")
		require.NoError(t, os.Mkdir(bin, 0o755))
		for name, get := range map[string]func() (string, error){"quickstart": quickstart, "hello": hello} {
			exe, err := get()
			require.NoError(t, err)
			needs.CopyProgram(t, exe, filepath.Join(bin, name))
		}
		require.NoError(t, os.CopyFS(examples, os.DirFS("..")))
		return filepath.Join(examples, "quickstart"), []string{builtIn + "=" + bin}
	}
	out := needs.Nobody(t, prepare, "-test.v", "-test.run", "^Test(ASecondPush|AKilledProgram|AnImage|Images)/^(process|sandbox)$")
	for _, name := range []string{"TestASecondPushSparesWhatIsThere", "TestAKilledProgramsAppRunsOnUntilTheNextStart", "TestAnImageIsPushed", "TestImagesOfRoot", "TestImagesLiveAsDropletsDo"} {
		assert.Contains(t, out, "--- PASS: "+name+"/sandbox")
	}
}
