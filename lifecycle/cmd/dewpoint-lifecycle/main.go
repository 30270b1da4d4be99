// Dewpoint-lifecycle is the small program to give to cells whose host program should not,
// or cannot, be run inside containers. Build it without cgo:
//
//	CGO_ENABLED=0 go build -trimpath -ldflags=-s ./lifecycle/cmd/dewpoint-lifecycle
//
// and pass its path in lifecycle.Config.Source.
package main

import (
	"fmt"
	"os"

	_ "github.com/dewpoint-go/dewpoint/internal/uplink" // the role by which sandboxes reach the world
	"github.com/dewpoint-go/dewpoint/lifecycle"
	_ "github.com/dewpoint-go/dewpoint/staging/image" // the role of image.OnCell
)

func main() {
	fmt.Fprintf(os.Stderr, "%s is run by a cell under the name of a role: init, builder, launcher, image or another\n", lifecycle.ProgramName)
	os.Exit(2)
}
