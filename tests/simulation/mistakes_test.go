//go:build !race

package simulation

import (
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// TestMistakesAreFound: what the protocol does has a reason each. Where one of its steps is left out, some seed shows what
// that leads to; which shows as well that the simulation would find it in the protocol. Mistakes that take many seeds are
// looked for where many are run.
func TestMistakesAreFound(t *testing.T) {
	for name, mistake := range map[string]struct {
		wrong faults
		rare  bool
	}{
		"a primary does not check its lease":                           {faults{leaseUnchecked: true}, false},
		"a lease is renewed though the view is old":                    {faults{leaseWithoutView: true}, true},
		"a target forgets that it was told of a newer map":             {faults{toldForgotten: true, leaseWithoutView: true}, true},
		"copies by an old map are accepted":                            {faults{staleMapAccepted: true}, true},
		"commits overlap with passes and questions by a newer map":     {faults{noGate: true}, true},
		"a new primary begins while the old one may act":               {faults{noSuccession: true}, true},
		"a write does not wait for its last replica":                   {faults{replicaNotAwaited: true}, false},
		"a key is answered for though not enough have been heard":      {faults{uncertainAnswered: true}, false},
		"a value is shown before all have it":                          {faults{shownUnspread: true}, true},
		"heal gives a primary what others lack":                        {faults{pushIntoPrimary: true}, true},
		"a copy out of place is removed without proof":                 {faults{dropUnproven: true}, false},
		"one target forgets a deletion":                                {faults{tombstonesForgotten: true}, false},
		"a listing that lacks targets is taken for whole":              {faults{shortListing: true}, false},
		"earlier sets are given up while one away may have the newest": {faults{givenUpEarly: true}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if testing.Short() || mistake.rare && *seeds < 1000 {
				t.Skip("takes too many seeds; make test-simulation looks for it")
			}
			var group errgroup.Group
			group.SetLimit(2)
			var found atomic.Bool
			for seed := range max(*seeds, 200) {
				group.Go(func() error {
					if found.Load() {
						return nil
					}
					if w := simulate(uint64(seed), mistake.wrong); len(w.broken) > 0 && !found.Swap(true) {
						t.Logf("seed %d: %s", seed, w.broken[0])
					}
					return nil
				})
			}
			require.NoError(t, group.Wait())
			if mistake.rare && !found.Load() {
				t.Skipf("not met in %d seeds", *seeds)
			}
			require.True(t, found.Load(), "the simulation does not see it")
		})
	}
}
