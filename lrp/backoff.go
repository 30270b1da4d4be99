package lrp

import "time"

// The numbers of the restart policy, which are Cloud Foundry's.
const (
	// ImmediateRestarts is how many crashes in a row are answered at once.
	ImmediateRestarts = 2
	// FirstBackoff is the wait after the next one; it doubles with each crash.
	FirstBackoff = 30 * time.Second
	// MaxBackoff is the longest wait.
	MaxBackoff = 16 * time.Minute
	// CrashLimit is the count of crashes after which nothing is tried any more.
	CrashLimit = 200
	// CrashReset is for how long an instance must have been Running for its earlier
	// crashes not to count.
	CrashReset = 5 * time.Minute
)

// Backoff returns how long an instance that has crashed so many times in a row waits for
// its next try: nothing for up to ImmediateRestarts, then FirstBackoff, doubling, up to
// MaxBackoff. From CrashLimit on there is no next try, and again is false.
func Backoff(crashes int) (wait time.Duration, again bool) {
	if crashes >= CrashLimit {
		return 0, false
	}
	if crashes <= ImmediateRestarts {
		return 0, true
	}
	wait = FirstBackoff
	for n := ImmediateRestarts + 1; n < crashes && wait < MaxBackoff; n++ {
		wait *= 2
	}
	return min(wait, MaxBackoff), true
}
