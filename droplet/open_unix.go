//go:build unix

package droplet

import "syscall"

// A file that became a pipe or a link after it was listed must neither block nor mislead.
const openFlags = syscall.O_NONBLOCK | syscall.O_NOFOLLOW
