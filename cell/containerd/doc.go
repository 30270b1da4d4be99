// Package containerd is the cell.Runtime of containers that a containerd runs: one that the machine has, or one that
// the Runtime starts for itself. Linux, as root. What it stops and what not stands in docs/isolation.md, each line
// with a test.
//
// A container is a task of containerd with our lifecycle program as PID 1, which starts an init for each process. Their output and exit
// statuses are the inits', so that both outlive this program and containerd; while containerd is away processes
// go on, and can be started where their container runs already.
//
// The root filesystem is a stack, read-only. Layers such as a droplet are unpacked once for each digest, and seen
// writable through an overlay of the instance's own. Containerd keeps no snapshots and no images for that: what a container is
// made of lies in Config.Dir, and what nobody there knows is removed when a Runtime is opened.
package containerd
