// Package handover passes open files from program to program of a machine: so a connection that was made in one network
// namespace is used in another, without anybody between who copies.
package handover

import (
	"errors"
	"strconv"
	"strings"
	"syscall"
)

const (
	maxMessage = 64 << 10 // bytes of a question or an answer
	maxFiles   = 4        // that come with either
)

// An answer is empty, "errno N" for an error of the kernel, or "error TEXT" for another.
func answerOf(err error) string {
	var e syscall.Errno
	switch {
	case err == nil:
		return ""
	case errors.As(err, &e):
		return "errno " + strconv.Itoa(int(e))
	}
	return "error " + err.Error()
}

func errorOf(answer string) error {
	if answer == "" {
		return nil
	}
	if number, ok := strings.CutPrefix(answer, "errno "); ok {
		if n, err := strconv.Atoi(number); err == nil && n > 0 {
			return syscall.Errno(n)
		}
	}
	return errors.New(strings.TrimPrefix(answer, "error "))
}
