package sandbox_test

import (
	"testing"

	"github.com/stretchr/testify/assert"

	"github.com/dewpoint-go/dewpoint/cell/sandbox"
)

func TestVisible(t *testing.T) {
	t.Parallel()
	seen, hidden := sandbox.Visible(
		[]string{"/usr/local/go/bin", "/home/me/.nvm/bin", "/bin", "", "bin", "/usrx/bin", "/opt/jdk/bin", "/opt/jdk2/bin", "/bin", "/usr/../home", "/opt/jdk"},
		[]string{"/opt/jdk"})
	assert.Equal(t, []string{"/usr/local/go/bin", "/bin", "/opt/jdk/bin", "/opt/jdk"}, seen)
	assert.Equal(t, []string{"/home/me/.nvm/bin", "bin", "/usrx/bin", "/opt/jdk2/bin", "/usr/../home"}, hidden)
}
