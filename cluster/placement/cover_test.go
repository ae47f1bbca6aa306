package placement_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/cluster/placement"
)

// What Covered says of all keys, Judge says of each: an answer that is not certain for a key is not covered.
func TestWhatIsCoveredIsCertainForEachKey(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := func(label string, bare bool) []placement.Member {
			var members []placement.Member
			for i := range rapid.IntRange(1, 5).Draw(t, label) {
				members = append(members, placement.Member{
					ID: fmt.Sprintf("t%d", i), Away: rapid.Bool().Draw(t, "away"), Leaving: rapid.IntRange(0, 3).Draw(t, "leaving") == 0,
					Bare: bare && rapid.IntRange(0, 3).Draw(t, "bare") == 0,
				})
			}
			return members
		}
		present := placement.Epoch{Version: 9, Members: set("present", true)}
		var former []placement.Epoch
		for i := range rapid.IntRange(0, 2).Draw(t, "former") {
			former = append(former, placement.Epoch{Version: int64(8 - i), Members: set("former", false)})
		}
		layout := placement.NewLayout(present, former)
		var up []string
		for i := range 5 {
			if rapid.Bool().Draw(t, "up") {
				up = append(up, fmt.Sprintf("t%d", i))
			}
		}
		copies := rapid.IntRange(1, 4).Draw(t, "copies")
		was := rapid.SampledFrom([][]int{nil, {1}, {2}, {3}}).Draw(t, "was")
		if !layout.Covered(copies, was, func(id string) bool { return slices.Contains(up, id) }) {
			return
		}
		for i := range 50 {
			plan := layout.Plan(key(i), copies, was...)
			answers := map[string]uint64{}
			for _, id := range plan.Ask("") {
				if slices.Contains(up, id) {
					answers[id] = 0
				}
			}
			if len(plan.Ask("")) > 0 && !plan.Judge(answers, placement.EpochOf).Certain {
				t.Fatalf("%s is covered by %v, but not certain: %v, before that %v", key(i), up, plan.Copies, plan.Former)
			}
		}
	})
}
