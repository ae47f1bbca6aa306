package slices_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	sliced "github.com/shardstream/shardstream/cluster/slices"
)

func TestArrange(t *testing.T) {
	list := []string{"a", "b", "c"}
	for _, test := range []struct {
		name    string
		list    []string
		held    map[string][]int
		holds   []string
		missing []int
		free    []string
	}{
		{"nothing yet", list, nil, []string{"", "", ""}, []int{0, 1, 2}, list},
		{"all there, in any order", list, map[string][]int{"a": {2}, "b": {0}, "c": {1}}, []string{"b", "c", "a"}, nil, nil},
		{"one more elsewhere", list, map[string][]int{"a": {0}, "b": {1}, "c": {2}, "x": {1}}, []string{"a", "b", "c"}, nil, nil},
		{"one only elsewhere", list, map[string][]int{"a": {0}, "b": {1}, "x": {2}}, []string{"a", "b", ""}, []int{2}, []string{"c"}},
		{"two on one", list, map[string][]int{"a": {0, 1}, "b": {0}, "c": {2}}, []string{"b", "a", "c"}, nil, nil},
		{"the same on two", list, map[string][]int{"a": {0}, "b": {0}, "c": {2}}, []string{"a", "", "c"}, []int{1}, []string{"b"}},
		{"too few targets", list[:2], map[string][]int{"a": {0}, "b": {2}}, []string{"a", "", "b"}, []int{1}, nil},
		{"what there can't be", list, map[string][]int{"a": {7, -1}, "b": {1}, "c": {2}}, []string{"", "b", "c"}, []int{0}, []string{"a"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := sliced.Arrange(test.list, 3, test.held)
			require.Equal(t, test.holds, a.Holds)
			require.Equal(t, test.missing, a.Missing)
			require.Equal(t, test.free, a.Free)
			require.Equal(t, len(test.missing) == 0, a.Complete())
		})
	}
}

// TestArrangementsAreSoundAndMoveLittle: whatever is where, each target is to have one slice that it has, if it is to
// have one that is anywhere on the list, and no two the same; and making the missing ones completes it.
func TestArrangementsAreSoundAndMoveLittle(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		total := rapid.IntRange(2, 12).Draw(t, "slices")
		var all []string
		for i := range rapid.IntRange(1, 16).Draw(t, "targets") {
			all = append(all, fmt.Sprint("t", i))
		}
		list := all[:min(total, rapid.IntRange(1, len(all)).Draw(t, "listed"))]
		held := map[string][]int{}
		for _, id := range all {
			held[id] = rapid.SliceOfNDistinct(rapid.IntRange(0, total-1), 0, min(3, total), rapid.ID[int]).Draw(t, id)
		}
		a := sliced.Arrange(list, total, held)
		require.Equal(t, a, sliced.Arrange(list, total, held))
		taken := map[string]bool{}
		for slice, id := range a.Holds {
			if id == "" {
				require.Contains(t, a.Missing, slice)
				continue
			}
			require.False(t, taken[id])
			taken[id] = true
			require.Contains(t, list, id)
			require.Contains(t, held[id], slice)
		}
		require.Len(t, a.Free, min(len(a.Missing), len(list)-len(taken)))
		for n, id := range a.Free {
			require.False(t, taken[id])
			require.Contains(t, list, id)
			held[id] = append(slices.Clone(held[id]), a.Missing[n])
		}
		if len(list) == total {
			again := sliced.Arrange(list, total, held)
			require.True(t, again.Complete())
		}
	})
}
