// Package size writes sizes for people.
package size

import (
	"fmt"
	"strings"
)

// Text writes bytes as Cloud Foundry does, in powers of 1024 and with one digit after the point where
// it is not 0: "999B", "45.6M", "1G".
func Text(n int64) string {
	units := []string{"B", "K", "M", "G", "T"}
	v, u := float64(n), 0
	for v >= 1024 && u < len(units)-1 {
		v /= 1024
		u++
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0") + units[u]
}
