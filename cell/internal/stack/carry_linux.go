package stack

import (
	"bufio"
	"bytes"
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os/exec"
	"path"
	"strings"

	"github.com/dewpoint-go/dewpoint/internal/jail"
	"github.com/dewpoint-go/dewpoint/lifecycle"
)

// Where a dynamic lifecycle program finds what it needs in a stack that is not this machine's own. The loader bears
// the program's name, as it is what the kernel takes for the program.
const (
	// ProgramPath is where the lifecycle program is in containers.
	ProgramPath = "/run/dewpoint/" + lifecycle.ProgramName

	carryDir = "/run/dewpoint/lib"
	// LoaderPath is its loader there.
	LoaderPath = carryDir + "/" + lifecycle.ProgramName
)

// Carry returns what must be bound for a program to run in any root: its loader, and the libraries it names.
// None for a static one.
func Carry(ctx context.Context, program string) ([]jail.Bind, error) {
	loader, err := loaderOf(program)
	if err != nil || loader == "" {
		return nil, err
	}
	// It knows best where it finds them.
	out, err := exec.CommandContext(ctx, loader, "--list", program).Output()
	if err != nil {
		return nil, fmt.Errorf("ask %s for the libraries of %s: %w; build your program with CGO_ENABLED=0, or set Config.Source", loader, program, err)
	}
	binds := []jail.Bind{{From: loader, To: LoaderPath}}
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		// "\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x…)"; what has no file stands without an arrow.
		name, rest, ok := strings.Cut(strings.TrimSpace(lines.Text()), " => ")
		file, _, _ := strings.Cut(rest, " (")
		if ok && path.IsAbs(file) {
			binds = append(binds, jail.Bind{From: file, To: path.Join(carryDir, path.Base(name))})
		}
	}
	return binds, nil
}

// loaderOf is the interpreter that an executable names, "" if it is static.
func loaderOf(program string) (string, error) {
	f, err := elf.Open(program)
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, err)
	}
	defer func() { _ = f.Close() }() // it was only read
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		if p.Filesz == 0 || p.Filesz > 4096 {
			return "", errors.New(program + ": the name of its loader is damaged")
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return "", fmt.Errorf("%s: %w", program, err)
		}
		return strings.TrimRight(string(b), "\x00"), nil
	}
	return "", nil
}
