// Package early is slow to initialise. It imports little, so it comes before lifecycle.
package early

import "time"

func init() { time.Sleep(1200 * time.Millisecond) }
