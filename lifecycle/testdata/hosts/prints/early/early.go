// Package early prints while it is initialised. It imports nothing, so it comes before lifecycle.
package early

func init() { println("early: loading plug-ins") }
