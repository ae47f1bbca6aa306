package heal

import (
	"slices"

	"github.com/shardstream/shardstream/cluster/placement"
)

// Question is what a target knows of a key that it has something of.
type Question struct {
	Self string
	Plan placement.Plan
	Own  uint64 // version of what self has, a tombstone included
	// Answers are the versions that the others have, 0 for none; who did not answer is not in the map.
	Answers map[string]uint64
	// Want is the number of copies that the bucket is to have; Plan.Copies is shorter where there are not as many targets.
	Want int
}

// Decision is what a target is to do about a key.
type Decision struct {
	// Push lists those that are to get self's copy (or its tombstone). Others who have the same version leave that to self.
	Push []string
	// Drop: self's copy does not belong here, and all that are to have the key have confirmed that they have this
	// version, or a newer one. It is a proof for this moment.
	Drop bool
	// Lacking: some of those that are to have the newest version don't. Somebody, maybe self, is to give it to them.
	Lacking bool
	// Unsure: not all have answered whose answers it takes. Everything is to be kept, and looked at again.
	Unsure bool
	// Misplaced: self has something that is not its own to keep.
	Misplaced bool
	// Mine: self is the one that counts the key, as the first in order that has the newest version.
	Mine bool
	// Short: there are fewer targets than the bucket is to have copies.
	Short bool
}

// Done says that nothing is left to be done about the key.
func (d *Decision) Done() bool { return !d.Lacking && !d.Unsure && !d.Misplaced }

// Decide is the rule by which copies are made and removed. It errs on the side of keeping: a copy may be dropped only
// where each target that is to have one has answered in this very round that it has it.
func Decide(q Question) Decision {
	copies := q.Plan.Copies
	d := Decision{Misplaced: !slices.Contains(copies, q.Self), Short: len(copies) < q.Want}
	version := func(id string) (uint64, bool) {
		if id == q.Self {
			return q.Own, true
		}
		v, ok := q.Answers[id]
		return v, ok
	}
	newest := q.Own
	for _, v := range q.Answers {
		newest = max(newest, v)
	}
	var lacking []string
	for _, id := range copies {
		v, answered := version(id)
		switch {
		case !answered:
			d.Unsure = true
		case v < newest:
			lacking = append(lacking, id)
		}
	}
	d.Lacking = len(lacking) > 0
	d.Mine = q.Own == newest && firstHolder(q, newest, version) == q.Self
	if d.Mine {
		d.Push = lacking
	}
	// Where there is nobody to have it, nobody has confirmed anything.
	d.Drop = d.Misplaced && !d.Unsure && !d.Lacking && len(copies) > 0
	return d
}

// firstHolder is who gives the newest version to the others: the first in the order of the plan that has it. A holder
// that is in none of the plan's lists, as after a bucket was given fewer copies, comes last.
func firstHolder(q Question, newest uint64, version func(string) (uint64, bool)) string {
	for _, id := range q.Plan.Ask("") {
		if v, answered := version(id); answered && v == newest {
			return id
		}
	}
	return q.Self
}
