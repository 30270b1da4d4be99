package uplink

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// On the way to the process, rules that are none do not become all being allowed.
func TestRulesAreToldAsTheyAre(t *testing.T) {
	t.Parallel()
	for _, rules := range [][]Rule{nil, {}, {{Deny: true}}} {
		b, err := json.Marshal(order{Do: "attach", Rules: rules})
		require.NoError(t, err)
		var got order
		require.NoError(t, json.Unmarshal(b, &got))
		assert.Equal(t, rules, got.Rules)
	}
}
