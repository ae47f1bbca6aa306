package loader

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/sampler"
)

// TestHolesAreOfOneBatch: a repair may still look at a batch when it was delivered, and when its buffers
// serve another, whose missing samples are not the repair's to ask for.
func TestHolesAreOfOneBatch(t *testing.T) {
	b := &batch{}
	b.reset(7, sampler.Batch{Count: 3}, &slot{}, 0)
	require.Equal(t, []int{0, 1, 2}, b.holes(7, nil))
	b.retire()
	require.Empty(t, b.holes(7, nil))
	b.reset(8, sampler.Batch{Count: 2}, &slot{}, 0)
	require.Empty(t, b.holes(7, nil))
	require.Equal(t, []int{0, 1}, b.holes(8, nil))
}
