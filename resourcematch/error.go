package resourcematch

import (
	"fmt"
	"strconv"
)

// Reason says what kind of failure an Error is.
type Reason string

// The reasons, and what Cloud Foundry calls each.
const (
	// Empty: there is nothing to push.
	Empty Reason = "Empty"
	// NotAnArchive: the app is a single file that is neither zip, jar nor war.
	NotAnArchive Reason = "NotAnArchive"
	// TooLarge: the sum of uncompressed sizes is over the limit (150001 AppPackageInvalid).
	TooLarge Reason = "TooLarge"
	// BadArchive: an upload can't be read (160001 AppBitsUploadInvalid).
	BadArchive Reason = "BadArchive"
	// BadPath: a path leaves the app or stands in another's way (160004).
	BadPath Reason = "BadPath"
	// BadMode: its owner may not read and write a matched file (160003).
	BadMode Reason = "BadMode"
	// BadFile: something that can't be in a package: a device, a name that is not UTF-8.
	BadFile Reason = "BadFile"
	// Changed: a file is not what its fingerprint says; it changed since, or was damaged on its way.
	Changed Reason = "Changed"
	// Unknown: an upload refers to a file that is not in the cache.
	Unknown Reason = "Unknown"
	// Corrupt: stored bytes are damaged (150010 ResourceChecksumMismatch).
	Corrupt Reason = "Corrupt"
	// NoInput: an upload has neither bits nor resources.
	NoInput Reason = "NoInput"
)

// Error is a failure that the owner of the app can do something about. Its text names the
// thing, the reason and the cure.
type Error struct {
	Reason Reason
	// Path is the file, if it is about one.
	Path string
	// Limit in bytes, of a TooLarge.
	Limit int64
	// Format of a BadArchive; "" is Zip.
	Format Format
	Detail string
	Err    error // the cause, or nil
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Error holds Cloud Foundry's words where it has some.
func (e *Error) Error() string {
	q := strconv.Quote(e.Path)
	switch e.Reason {
	case Empty:
		return "there are no files to push; is it the right directory, and does .cfignore leave some?" + e.tail()
	case NotAnArchive:
		return q + " is a file, but no zip, jar or war archive; push a directory or an archive" + e.tail()
	case TooLarge:
		s := fmt.Sprintf("Package may not be larger than %d bytes", e.Limit)
		if e.Path != "" {
			s += "; " + q + " takes it beyond that"
		}
		return s + e.tail() + "; leave files out with .cfignore, or raise the limit"
	case BadArchive:
		f := e.Format
		if f == "" {
			f = Zip
		}
		return "Invalid " + string(f) + " archive (" + e.Detail + ")."
	case BadPath:
		return fmt.Sprintf("The resource file path is invalid: File path '%s' is not safe.", e.Path) + e.tail()
	case BadMode:
		return fmt.Sprintf("The resource file mode is invalid: File mode '%s' with path '%s' is invalid. Minimum file mode is '0600'", e.Detail, e.Path)
	case Changed:
		return q + " is not what its fingerprint says" + e.tail() + "; push again"
	case Unknown:
		return q + " is not in the cache" + e.tail() + "; match again, and upload what is not known"
	case Corrupt:
		return "One or more cached resources did not match the given checksum. They have been deleted; please retry package upload."
	case NoInput:
		return "Upload must include either resources or bits"
	}
	return q + " can't be in a package" + e.tail()
}

func (e *Error) tail() string {
	if e.Detail == "" {
		return ""
	}
	return " (" + e.Detail + ")"
}
