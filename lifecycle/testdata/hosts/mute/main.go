// Mute has no roles and ends.
package main

import (
	_ "os"
)

func main() {}
