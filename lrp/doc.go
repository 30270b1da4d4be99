// Package lrp says what a long-running process is, and what must change to keep it running.
//
// [Desired] is what is wanted, [Instance] what is; [Scheduler] is the seam that makes the
// one follow the other. The rules stand here as pure functions: [Reconcile], [Step] and
// [Backoff]. Package scheduler is the reference Scheduler; lrp/lrptest is the suite.
package lrp
