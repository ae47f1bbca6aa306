package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"4GiB": 4 << 30, "4G": 4 << 30, "4g": 4 << 30, "1.5 MiB": 3 << 19, "500MB": 500e6, "100000000": 1e8, "7B": 7, "2TB": 2e12,
	} {
		var v sizeValue
		require.NoError(t, v.Set(text), text)
		require.EqualValues(t, want, v, text)
		var again sizeValue
		require.NoError(t, again.Set(v.String()))
		require.Equal(t, v, again)
	}
	for _, text := range []string{"", "GiB", "-1", "0", "4XB", "4GiBB", "1e300GiB", "four", "9000000TiB", "NaN", "Inf"} {
		var v sizeValue
		require.Error(t, v.Set(text), text)
	}
}
