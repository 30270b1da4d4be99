// Package scheduler is the reference lrp.Scheduler: it places work on cells, keeps
// long-running processes as they are wanted, and says why it cannot where it cannot.
//
// What is wanted and what is stand in two tables of a state.DB ([Tables]); cells are the
// truth for what runs. A [Scheduler] compares the two whenever either changes and at the
// moments that lrp.Reconcile names. One rule cleans up after every crash: a work that
// neither a row nor a waiting RunTask holds is stopped. [Policy] chooses cells; [Spread]
// is the default. Package scheduler/schedulertest has a scripted cell for tests.
package scheduler
