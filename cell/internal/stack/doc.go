// Package stack is what cells with a root filesystem of their own know of stacks: what is seen of a directory, or of
// this machine, and how the lifecycle program runs there.
package stack

// HostTops are the parts of this machine that are its stack. Where people live, and what services keep, is not.
var HostTops = []string{"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc"}

// Ours are the folders that are no stack's, beside those of the instance.
var Ours = []string{"proc", "dev", "sys", "run", "var"}
