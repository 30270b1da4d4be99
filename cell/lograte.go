package cell

import (
	"fmt"
	"sync"
	"time"
)

// silence is how long an instance that exceeded a log rate is not heard.
const silence = time.Second

// lineRate holds the output of one instance, all its processes together, to its log rates. The
// zero value is ready. Time is that of the lines, so that what an instance said while nobody
// listened is not taken for a burst.
type lineRate struct {
	mu     sync.Mutex // guards what follows
	bytes  bucket
	lines  bucket
	silent time.Time // lines before it are dropped
	latest time.Time
}

// bucket is a token bucket as large as what comes in within a second; full at first.
type bucket struct {
	used float64
	at   time.Time
}

// take takes n, unless that is more than there is.
func (b *bucket) take(at time.Time, n, rate int64) bool {
	if b.used > 0 {
		b.used = max(0, b.used-float64(rate)*at.Sub(b.at).Seconds())
	}
	b.at = at
	if b.used+float64(n) > float64(rate) {
		return false
	}
	b.used += float64(n)
	return true
}

// admit tells whether a line of n bytes may be kept, and what to say if it is the first that
// may not. Rates of 0 are no limits; a negative rate of bytes admits nothing.
func (r *lineRate) admit(at time.Time, n, bytesRate, linesRate int64) (ok bool, say string) {
	if bytesRate < 0 {
		return false, ""
	}
	if bytesRate == 0 && linesRate <= 0 {
		return true, ""
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if at.Before(r.latest) { // clocks are set back, and two streams are not stamped in order
		at = r.latest
	}
	r.latest = at
	if at.Before(r.silent) {
		return false, ""
	}
	switch {
	case bytesRate > 0 && !r.bytes.take(at, n, bytesRate):
		say = fmt.Sprintf("app instance exceeded log rate limit (%d bytes/sec)", bytesRate)
	case linesRate > 0 && !r.lines.take(at, 1, linesRate):
		say = fmt.Sprintf("app instance exceeded log rate limit (%d log-lines/sec) set by platform operator", linesRate)
	default:
		return true, ""
	}
	r.silent = at.Add(silence)
	return false, say
}

// output adds a line that a process of the work printed, unless that exceeds its log rate. What
// staging prints is never limited, nor what the cell says.
func (j *job) output(at time.Time, source string, stderr bool, text string) {
	if at.IsZero() {
		at = j.a.cfg.Now()
	}
	if j.work.Log.Source != "STG" {
		ok, say := j.log.rate.admit(at, int64(len(text)), j.work.Spec.LogRate, int64(j.a.cfg.LogLinesPerSecond))
		if say != "" {
			j.lineAt(at, source, false, say)
		}
		if !ok {
			return
		}
	}
	j.lineAt(at, source, stderr, text)
}
