// Package celltest is the conformance suite of cell.Runtime and cell.Cell.
//
// An author of a Runtime calls [Run], and [RunCell] with an Agent over it; the author of
// another Cell calls RunCell. A Runtime whose containers outlive the program is also given to
// [RunSurvival]. All run one small program in the containers, see [Main].
package celltest
