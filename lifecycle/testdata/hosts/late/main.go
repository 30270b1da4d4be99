// Late has no roles and goes on.
package main

import (
	"time"
)

func main() { time.Sleep(time.Hour) }
