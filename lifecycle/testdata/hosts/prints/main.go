// Prints is a host program whose start-up prints.
package main

import (
	"fmt"

	_ "github.com/dewpoint-go/dewpoint/lifecycle"
	_ "github.com/dewpoint-go/dewpoint/lifecycle/testdata/hosts/prints/early"
)

func main() { fmt.Println("main") }
