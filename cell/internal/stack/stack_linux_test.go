package stack

import (
	"debug/elf"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shell makes a stack whose /bin/sh, found by a link, is a program of nothing for that machine.
func shell(t *testing.T, machine elf.Machine) string {
	t.Helper()
	dir := t.TempDir()
	head := elf.Header64{Type: uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT), Ehsize: 64, Phentsize: 56, Shentsize: 64}
	copy(head.Ident[:], elf.ELFMAG+string([]byte{byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)}))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "usr", "bin"), 0o755))
	require.NoError(t, os.Symlink("usr/bin", filepath.Join(dir, "bin")))
	require.NoError(t, os.Symlink("dash", filepath.Join(dir, "usr", "bin", "sh")))
	f, err := os.Create(filepath.Join(dir, "usr", "bin", "dash"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, binary.Write(f, binary.LittleEndian, head))
	return dir
}

func TestAStackOfAnotherArchitectureIsRefused(t *testing.T) {
	t.Parallel()
	mine, ok := machines[runtime.GOARCH]
	if !ok {
		t.Skip("what programs of this architecture are called is not known")
	}
	_, err := Open("s", shell(t, mine))
	require.NoError(t, err)
	_, err = Open("s", shell(t, elf.EM_S390))
	assert.ErrorContains(t, err, "its /bin/sh is for S390")
	assert.ErrorContains(t, err, "give a root filesystem for "+runtime.GOARCH)
}

func TestAStackWithoutAShellIsTaken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "opt"), 0o755))
	s, err := Open("s", dir)
	require.NoError(t, err)
	assert.Equal(t, []string{"opt"}, s.Tops)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "bin"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bin", "sh"), []byte("#!/opt/sh\n"), 0o755))
	_, err = Open("s", dir)
	require.NoError(t, err)
}
