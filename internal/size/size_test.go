package size_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/dewpoint-go/dewpoint/internal/size"
)

func TestText(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0B", 999: "999B", 1023: "1023B", 1024: "1K", 1536: "1.5K", 47_815_066: "45.6M",
		1 << 30: "1G", 1<<30 + 1: "1G", 3 << 40: "3T", 5000 << 40: "5000T",
	} {
		assert.Equal(t, want, size.Text(n))
	}
}
