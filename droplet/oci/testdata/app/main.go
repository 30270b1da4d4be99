// App shows where it runs, for a test.
package main

import (
	"encoding/json"
	"os"
)

func main() {
	dir, _ := os.Getwd()
	_ = json.NewEncoder(os.Stdout).Encode(map[string]any{
		"args": os.Args[1:], "dir": dir, "uid": os.Getuid(), "gid": os.Getgid(), "home": os.Getenv("HOME"), "port": os.Getenv("PORT"),
		"deps": os.Getenv("DEPS_DIR"), "profile": os.Getenv("FROM_PROFILE"), "env": os.Getenv("OF_USER"),
	})
}
