// Package uplink is the way out of networks that this machine's kernel connects with nothing: it speaks IP with a container
// by the device through which all leaves that, and TCP and UDP with the world by ordinary sockets. It needs no rights and no other
// program, and asks rules before it opens a connection.
//
// One process serves all containers of a cell, by the role uplink (see package lifecycle). It outlives the program that has
// started it, as containers do, and ends when it has served none for a while.
package uplink
