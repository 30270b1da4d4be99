// Package logs holds the lines that staging, apps, cells and the router say, readable
// from any point in time.
//
// A [Line] is one value from the process that printed it to the person who reads it.
// [Store] is the seam; [Memory] keeps a bounded number of lines for each app.
// Package logs/logstest is the conformance suite.
package logs
