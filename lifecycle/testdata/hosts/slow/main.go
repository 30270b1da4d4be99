// Slow is a host program whose start-up takes long.
package main

import (
	_ "github.com/dewpoint-go/dewpoint/lifecycle"
	_ "github.com/dewpoint-go/dewpoint/lifecycle/testdata/hosts/slow/early"
)

func main() {}
