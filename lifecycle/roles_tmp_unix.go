//go:build unix

package lifecycle

func runBuilder([]string) int  { return 1 }
func runLauncher([]string) int { return 1 }
func runShell([]string) int    { return 1 }
