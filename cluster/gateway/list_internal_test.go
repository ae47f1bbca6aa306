package gateway

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/core/backend"
)

// Pages of several targets, cut at other names each, merge to what one target that had the newest of everything would
// list up to the first cut: nothing is left out, nothing comes twice, and no older version shows.
func TestPagesMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const names = 12
		limit := rapid.IntRange(1, names).Draw(t, "limit")
		newest := map[string]copies.Listed{}
		var parts []copies.Page
		for target := range rapid.IntRange(1, 4).Draw(t, "targets") {
			var page copies.Page
			for n := range names {
				if !rapid.Bool().Draw(t, "has") {
					continue
				}
				o := copies.Listed{Object: api.Object{Name: fmt.Sprintf("%02d", n), Version: uint64(10*rapid.IntRange(0, 3).Draw(t, "version") + target)}}
				o.Deleted = rapid.Bool().Draw(t, "deleted")
				if had, ok := newest[o.Name]; !ok || had.Version < o.Version {
					newest[o.Name] = o
				}
				if len(page.Objects) == limit {
					page.Next = page.Objects[limit-1].Name
				} else {
					page.Objects = append(page.Objects, o)
				}
			}
			parts = append(parts, page)
		}
		upTo, more := bound(parts)
		var want []copies.Listed
		for _, name := range slices.Sorted(maps.Keys(newest)) {
			if !more || name <= upTo {
				want = append(want, newest[name])
			}
		}
		var got []copies.Listed
		for _, e := range mergePages(parts, upTo) {
			got = append(got, *e.object)
		}
		require.Equal(t, want, got)
	})
}

// An entry that says nothing is none that is known: what is here may have been replaced.
func TestEntriesThatSayNothing(t *testing.T) {
	origin, at := `"tag"`, time.Now()
	line := &copies.Listed{Object: api.Object{Size: 5, Created: at}, Origin: &origin}
	require.True(t, sameAsAt(line, &backend.Entry{Size: 5, Modified: at.Add(-time.Hour)}))
	require.False(t, sameAsAt(line, &backend.Entry{Size: -1}))
}
