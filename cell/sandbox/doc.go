// Package sandbox is the cell.Runtime of isolated processes of a Linux machine: without root, without a
// daemon, without other programs. Each process of a container, with all that it starts, has processes,
// mounts, host name and IPC of its own, a root filesystem that is a stack, read-only, with /home/vcap and /tmp
// of the instance, no capabilities, and a filter before the kernel. Cloud Foundry's fixed paths work as they are.
//
// The network is the machine's: each instance gets a port, as in cell/process, and reaches what this
// machine reaches, its loopback included. Memory and disk are not limited by it. What it stops and what
// not stands in docs/isolation.md, each line with a test.
//
// Processes outlive this program; a Runtime made later over the same Config.Dir finds them.
package sandbox
