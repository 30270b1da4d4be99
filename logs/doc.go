// Package logs holds the lines that staging, apps, cells and the router say, readable
// from any point in time.
//
// A [Line] is one value from the process that printed it to the person who reads it.
// [Store] is the seam; [Memory] keeps a bounded number of lines for each app. A reader holds
// nobody up: one that is too slow finds a [Gap], which says how many lines it lost. What
// staging said has a share of its own, so that an app that floods its log doesn't push it out.
// Package logs/logstest is the conformance suite.
package logs
