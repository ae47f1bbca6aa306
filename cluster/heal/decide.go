package heal

import (
	"slices"

	"github.com/shardstream/shardstream/cluster/placement"
)

// Answer is what a target says that it has of a key.
type Answer struct {
	Version uint64 // 0: it knows nothing
	// Lost: it had that version and knows of it, but the bytes are gone.
	Lost bool
}

// Question is what a target knows of a key that it has something of.
type Question struct {
	Self string
	Plan placement.Plan
	Own  Answer // what self has, a tombstone included
	// Answers are the others'. Who did not answer, or could not tell, is not in the map.
	Answers map[string]Answer
	// Want is the number of copies that the bucket is to have; Plan.Copies is shorter where there are not as many targets.
	Want int
}

// Decision is what a target is to do about a key.
type Decision struct {
	// Push lists those that are to get self's copy (or its tombstone). Others who have the same version leave that to self.
	Push []string
	// Drop: self's copy does not belong here, and all that are to have the key have confirmed that they have this
	// version, or a newer one. It is a proof for this moment, under the plan's version of the map.
	Drop bool
	// Lacking: some of those that are to have the newest version don't. Somebody, maybe self, is to give it to them.
	Lacking bool
	// Unsure: not all have answered whose answers it takes. Everything is to be kept, and looked at again.
	Unsure bool
	// Misplaced: self has something that is not its own to keep.
	Misplaced bool
	// Mine: self is the one that answers for the key, as the first in order that has the newest version.
	Mine bool
	// Short: there are fewer targets than the bucket is to have copies.
	Short bool
}

// Decide is the rule by which copies are made and removed. It errs on the side of keeping: a copy may be dropped only
// where each target that is to have one has answered in this very round that it has it.
func Decide(q Question) Decision {
	copies := q.Plan.Copies
	d := Decision{Misplaced: !slices.Contains(copies, q.Self), Short: len(copies) < q.Want}
	newest := q.Own.Version
	for _, a := range q.Answers {
		newest = max(newest, a.Version)
	}
	var lacking []string
	for _, id := range copies {
		a, answered := q.answer(id)
		switch {
		case !answered:
			d.Unsure = true
		case a.Version < newest || a.Lost:
			lacking = append(lacking, id)
		}
	}
	d.Lacking = len(lacking) > 0
	d.Mine = q.Own.Version == newest && q.holder(newest) == q.Self
	if d.Mine && !q.Own.Lost {
		d.Push = lacking
	}
	// Where there is nobody to have it, nobody has confirmed anything.
	d.Drop = d.Misplaced && !d.Unsure && !d.Lacking && len(copies) > 0
	return d
}

func (q *Question) answer(id string) (Answer, bool) {
	if id == q.Self {
		return q.Own, true
	}
	a, ok := q.Answers[id]
	return a, ok
}

// holder is who gives the newest version to the others: the first in the order of the plan that has it or, where nobody
// has it any more, that knows of it. Self comes last where it is in none of the plan's lists.
func (q *Question) holder(newest uint64) string {
	order := q.Plan.Ask("")
	if !slices.Contains(order, q.Self) {
		order = append(order, q.Self)
	}
	knows := ""
	for _, id := range order {
		a, answered := q.answer(id)
		switch {
		case !answered || a.Version != newest:
		case !a.Lost:
			return id
		case knows == "":
			knows = id
		}
	}
	return knows
}
