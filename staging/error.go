package staging

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/dewpoint-go/dewpoint/cell"
)

// Reason is the class of a failed staging. Those that Cloud Foundry has an id for bear it.
type Reason string

// The reasons why a staging failed.
const (
	NoAppDetected            Reason = "NoAppDetectedError"       // no buildpack's bin/detect said yes
	BuildpackCompileFailed   Reason = "BuildpackCompileFailed"   // bin/compile, bin/finalize or the last bin/supply
	BuildpackReleaseFailed   Reason = "BuildpackReleaseFailed"   // bin/release, or what it printed
	BuildpackSupplyFailed    Reason = "BuildpackSupplyFailed"    // bin/supply of one that is not the last
	BuildpackInvalid         Reason = "BuildpackInvalid"         // asked for, but unknown, disabled or malformed
	BuildpackUnavailable     Reason = "BuildpackUnavailable"     // its bytes could not be had
	CustomBuildpacksDisabled Reason = "CustomBuildpacksDisabled" // a location, where only names are allowed
	NoBuildpacksFound        Reason = "NoBuildpacksFound"        // none at all
	StagingInProgress        Reason = "StagingInProgress"        // the app is being staged already
	InsufficientResources    Reason = "InsufficientResources"    // no cell has room
	NoCompatibleCell         Reason = "NoCompatibleCell"         // no cell has the stack, or the isolation
	CellCommunicationError   Reason = "CellCommunicationError"   // no cell answered
	CellLost                 Reason = "CellLost"                 // the cell vanished with the staging
	Timeout                  Reason = "StagingTimeExpired"       // the limit of the whole
	Canceled                 Reason = "StagingCanceled"          // the caller's context ended, or the work was stopped
	ImageInvalid             Reason = "ImageInvalid"             // no such image, a bad reference, or no right to it
	RegistryUnavailable      Reason = "RegistryUnavailable"      // the registry did not answer
	StagingError             Reason = "StagingError"             // anything else
)

// Error is a failed staging. errors.As finds it in whatever Stager and the drivers return.
type Error struct {
	Reason Reason
	// Staging is the Request's ID, Name the app's name; either may be "".
	Staging, Name string
	// Phase is the part that failed: "plan", or that of a [Phase].
	Phase string
	// Text says what happened, Cure what to do about it. Empty: the Reason's own words.
	Text, Cure string
	// ExitStatus of the builder; 0 if it never ended by itself.
	ExitStatus int
	// Last holds the newest lines that were told, at most 20, oldest first.
	Last []string
	// Retryable: the same staging may go well if it is tried again.
	Retryable bool
	// Err is the cause, if there is one.
	Err error
}

// Error returns one sentence: the thing, the reason and the cure.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("stage ")
	b.WriteString(cmp.Or(e.Name, e.Staging, "app"))
	b.WriteString(": ")
	w := words[e.Reason]
	text := cmp.Or(e.Text, w.text, string(e.Reason))
	b.WriteString(text)
	if e.ExitStatus != 0 && !strings.Contains(text, fmt.Sprint("status ", e.ExitStatus)) {
		fmt.Fprintf(&b, " (exit status %d)", e.ExitStatus)
	}
	if e.Err != nil && !bare(e.Err) && !strings.Contains(text, e.Err.Error()) {
		b.WriteString(": ")
		b.WriteString(e.Err.Error())
	}
	cure := cmp.Or(e.Cure, w.cure)
	if cure == "" && e.Retryable {
		cure = "try again"
	}
	if cure != "" {
		b.WriteString("; ")
		b.WriteString(cure)
	}
	return b.String()
}

// bare tells a context's own error, which says nothing that the Reason has not said.
func bare(err error) bool {
	//nolint:errorlint // one that is wrapped says more
	return err == context.DeadlineExceeded || err == context.Canceled
}

// Unwrap returns Err.
func (e *Error) Unwrap() error { return e.Err }

// CFError is the code and name that Cloud Foundry's API gives such a failure, and its
// words for it: cloud_controller_ng, errors/v2.yml. Reasons that it has no name for are a
// StagingError. Unlike there, a timeout is StagingTimeExpired whoever noticed it.
func (e *Error) CFError() (name string, code int, message string) {
	w, ok := words[e.Reason]
	if !ok || w.code == 0 {
		return "StagingError", 170001, "Staging error: " + cmp.Or(e.Text, w.text, "staging failed")
	}
	message = w.cf
	if head, ok := strings.CutSuffix(message, "%s"); ok {
		message = head + cmp.Or(e.Text, w.text)
	}
	return cmp.Or(w.name, string(e.Reason)), w.code, message
}

// words holds what is said of each reason: ours, and Cloud Foundry's.
var words = map[Reason]struct {
	text, cure string
	name       string // "" is the Reason
	code       int    // 0: Cloud Foundry has none
	cf         string
}{
	NoAppDetected: {text: "no buildpack recognised the app", cure: "name a buildpack, or add the file that one of them looks for",
		code: 170003, cf: "An app was not successfully detected by any available buildpack"},
	BuildpackCompileFailed: {text: "the buildpack failed to compile the app", cure: "its last lines say why",
		code: 170004, cf: "App staging failed in the buildpack compile phase"},
	BuildpackReleaseFailed: {text: "the buildpack's bin/release failed or did not print YAML", cure: "its last lines say why",
		code: 170005, cf: "App staging failed in the buildpack release phase"},
	BuildpackSupplyFailed: {text: "a buildpack could not supply its part",
		cure: "its last lines say why; each buildpack but the last needs a bin/supply"},
	NoBuildpacksFound: {text: "there are no buildpacks", cure: "add one to the catalogue, or enable one",
		code: 170006, cf: "There are no buildpacks available"},
	Timeout: {text: "it took longer than allowed", cure: "allow more time, or make the build shorter",
		code: 170007, cf: "Staging time expired: %s"},
	InsufficientResources: {text: "insufficient resources", cure: "stop something, add a cell, or ask for less memory or disk",
		code: 170008, cf: "Insufficient resources"},
	NoCompatibleCell: {text: "found no compatible cell", cure: "add a cell with the app's stack, or choose another stack",
		code: 170009, cf: "Found no compatible cell"},
	StagingInProgress: {text: "the app is being staged already", cure: "wait for it, or cancel it",
		code: 170017, cf: "Only one build can be STAGING at a time per application."},
	BuildpackInvalid: {text: "the buildpack cannot be used", cure: "name one of the catalogue that is enabled, or the URL of a git repository or zip",
		code: 290003, cf: "Buildpack is invalid: %s"},
	CustomBuildpacksDisabled: {text: "custom buildpacks are disabled", cure: "name one of the catalogue",
		code: 290004, cf: "Custom buildpacks are disabled"},
	BuildpackUnavailable:   {text: "the buildpack could not be fetched"},
	CellCommunicationError: {text: "unable to communicate to compatible cells"},
	CellLost:               {text: "the cell vanished with the staging"},
	Canceled:               {text: "staging was cancelled"},
	ImageInvalid:           {text: "the image cannot be used"},
	RegistryUnavailable:    {text: "the registry did not answer"},
	StagingError:           {text: "staging failed"},
}

// Failed returns the *Error for a work that did not end well, or nil for one that did. It
// knows what is common to all kinds of staging; a BuildpackRunner gives exits their own
// meaning after it.
func Failed(r Request, s cell.Status) *Error {
	exit := 0
	if s.Exit != nil {
		exit = s.Exit.Code
	}
	if s.Failure == "" && s.Reason == "" && s.Exit != nil && exit == 0 {
		return nil
	}
	e := &Error{Reason: StagingError, Staging: r.ID, Name: r.AppName, Phase: PhaseBuild, Text: s.Failure, Last: s.Last, ExitStatus: exit}
	switch s.Reason {
	case cell.ReasonExit:
		if s.Exit != nil && s.Exit.OutOfMemory {
			e.Text, e.Cure = "the build ran out of memory", "give staging more memory"
		}
	case cell.ReasonTimeout:
		e.Reason, e.ExitStatus, e.Err = Timeout, 0, context.DeadlineExceeded
	case cell.ReasonStopped:
		e.Reason, e.ExitStatus, e.Err = Canceled, 0, context.Canceled
	case cell.ReasonLost:
		e.Reason, e.ExitStatus, e.Retryable = CellLost, 0, true
	case cell.ReasonInput:
		e.Phase, e.Retryable = PhaseFetch, true
	case cell.ReasonArchive:
		e.Phase = PhaseFetch
	case cell.ReasonCreate:
		e.Phase, e.Retryable = PhaseCreate, true
	case cell.ReasonOutput:
		e.Phase, e.Retryable = PhaseSave, true
	case cell.ReasonInternal:
		e.Retryable = true
	case "":
		if s.Exit == nil {
			e.Reason, e.Retryable = CellLost, true
			e.Text = "the cell gave the work up without saying how it ended"
		}
	}
	return e
}
