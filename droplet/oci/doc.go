// Package oci makes OCI images of droplets, and droplets of such images.
//
// [Client.Export] puts a droplet on a stack: the image has the stack's layers, then one with
// the launcher, then one with the droplet below /home/vcap, and runs anywhere with the
// command, environment, user (2000:2000, vcap) and folder (/home/vcap/app) that a cell
// gives it. [Client.Import] is the way back, and [Client.Rebase] puts another stack below an
// image without staging: the layers of launcher and droplet stay as they are.
//
// The same droplet, stack, launcher and request give the same digests, each time and on
// every machine; and a rebased image is, byte for byte, what an export on the new stack is.
//
// # Places
//
// Stacks and images are named by where they are:
//
//	registry.example.com/name:tag, …@sha256:…   in a registry
//	oci:DIR                                     an OCI layout; DIR@sha256:… chooses one of its images
//	docker-archive:FILE                         what "docker save" makes and "docker load" reads
//	dir:DIR                                     a root filesystem; a stack only
//
// # The launcher
//
// What runs the start command is the lifecycle's launcher, as on a cell. It is the stock
// program lifecycle/cmd/dewpoint-lifecycle, built without cgo for the image's architecture;
// Config.Launcher is its path. It lies in the image as /opt/dewpoint/dewpoint-lifecycle, and
// the entrypoint /opt/dewpoint/launcher is a link to it. It needs a bash or sh of the stack.
package oci
