//go:build !unix

package sampletree

import "time"

// CPUTime is what this process has used of the processors; here nobody tells.
func CPUTime() time.Duration { return 0 }
