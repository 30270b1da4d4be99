// Package needs says what a test needs of its machine. Where that is missing the test is
// skipped with the reason, unless DEWPOINT_REQUIRE is set: then it fails, since a skipped
// test is not a passed one.
package needs

import (
	"os"
	"os/exec"
	"testing"
)

// Variable is the environment variable that turns skips into failures; any text but "" does.
const Variable = "DEWPOINT_REQUIRE"

// Missing skips or fails a test for a reason, a sentence without its end.
func Missing(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv(Variable) != "" {
		t.Fatalf("%s, and %s is set", reason, Variable)
	}
	t.Skip(reason)
}

// Tool returns the path of a program of this machine that the test runs.
func Tool(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		Missing(t, "this machine has no "+name)
	}
	return path
}
