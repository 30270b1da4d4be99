package cell

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestFixedPath(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		"bash: line 1: cd: /home/vcap/app: No such file or directory":                            "/home/vcap/app",
		"sh: 1: cd: can't cd to /home/vcap/app":                                                  "/home/vcap/app",
		"/bin/sh: 1: /home/vcap/app/run: not found":                                              "/home/vcap/app/run",
		"python3: can't open file '/home/vcap/app/x.py': [Errno 2] No such file or directory":    "/home/vcap/app/x.py",
		"Error: ENOENT: no such file or directory, open '/tmp/app/a b'":                          "/tmp/app/a",
		"ls: cannot access '/home/vcap': No such file or directory":                              "/home/vcap",
		"ls: cannot access '/data/containers/x/root/home/vcap/app/f': No such file or directory": "",
		"ls: cannot access '/data/root/tmp/app' or '/tmp/app/f': No such file or directory":      "/tmp/app/f",
		"using /home/vcap/app":                   "",
		"/home/vcapx: No such file or directory": "",
		"":                                       "",
	} {
		assert.Equal(t, want, fixedPath([]string{"before", line, "after"}), line)
	}
}
