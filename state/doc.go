// Package state is the one database: typed tables in memory, every change durable
// before it is seen.
//
// A [DB] holds [Table]s of rows. [DB.Update] changes them; the change is committed to the
// [Journal] first and is visible only then, so whoever sees a row may rely on it.
// Reads are of one moment, take microseconds, and can wait for a change. [Memory] is the
// journal that keeps bytes for tests; package state/statetest is the suite for journals.
package state
