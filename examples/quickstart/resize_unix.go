//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// onResize calls do each time that the size of the terminal changes, until stop is called.
func onResize(do func()) (stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGWINCH)
	go func() {
		for range c {
			do()
		}
	}()
	return func() {
		signal.Stop(c)
		close(c)
	}
}
