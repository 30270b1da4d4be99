package sim

import (
	"flag"
	"fmt"
	"strings"
)

var traceFlag = flag.String("sim.trace", "", "print each event that contains this text")

func init() {
	trace = func(line string) {
		if *traceFlag != "" && strings.Contains(line, *traceFlag) {
			fmt.Println(line)
		}
	}
}
