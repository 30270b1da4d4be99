//go:build !unix

package main

// onResize does nothing here: nobody tells of it.
func onResize(func()) (stop func()) { return func() {} }
