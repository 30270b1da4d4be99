//go:build !unix

package droplet

const openFlags = 0
