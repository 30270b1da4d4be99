package dewpoint

import (
	"time"

	"github.com/dewpoint-go/dewpoint/logs"
)

// Step is one part of a push, in the order in which Cloud Foundry documents them; its cf
// does the first.
type Step string

// The steps of a push.
const (
	StepScan    Step = "scan"    // the app's files are read
	StepRecord  Step = "record"  // the app's record is made or changed
	StepMatch   Step = "match"   // its files are held against what is here
	StepUpload  Step = "upload"  // what is missing is stored
	StepPackage Step = "package" // the package is ready
	StepStage   Step = "stage"   // buildpacks make the droplet on a cell
	StepDroplet Step = "droplet" // droplet and build cache are kept
	StepRun     Step = "run"     // the process is scheduled
	StepHealthy Step = "healthy" // every instance that is wanted runs and has its route
)

// Progress tells what a push is doing. Exactly one of Line, Done and neither (the step
// begins) is the case.
type Progress struct {
	Step Step
	Time time.Time
	// Line is a line of output, from staging or from an instance that starts. Its Pos, if it
	// has one, is the place to go on from with Platform.Logs.
	Line *logs.Line
	// Done: the step has ended well and took Took; Text says in a few words what came of it.
	Done bool
	Took time.Duration
	Text string
}
