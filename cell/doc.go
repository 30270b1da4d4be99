// Package cell runs work in containers on one machine.
//
// Two seams of different size stand here. [Runtime] makes containers and is what a new
// isolation technique implements; [Cell] takes work and is what a scheduler talks to, the
// boundary that a network may be put in. [Agent] is the Cell over any Runtime.
// A [Work] is the one description of something to run: a staging, a task, or an instance
// of a long-running process.
//
// [Memory] is the runtime whose programs are Go functions; cell/process runs plain
// processes. Package cell/celltest is the conformance suite of both seams.
package cell
