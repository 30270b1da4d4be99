package folder

import (
	"errors"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// clone is not tried: fclonefileat wants to make the file itself.
func clone(_, _ *os.File) error { return errors.ErrUnsupported }

// memory is what the machine has, in bytes.
func memory() (int64, error) {
	n, err := unix.SysctlUint64("hw.memsize")
	return int64(n), err
}

// bootID tells one boot of the machine from another.
func bootID() string {
	tv, err := unix.SysctlTimeval("kern.boottime")
	if err != nil {
		return ""
	}
	return strconv.FormatInt(tv.Sec, 10)
}
