package stream

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// newTestBudget has room for so many streams, and as much for transformed batches.
func newTestBudget(streams int64) *Budget { return NewBudget(2 * streams * streamBytes) }

func mustAdmit(t *testing.T, b *Budget, evict func()) *tenant {
	t.Helper()
	account, err := b.admit(evict)
	require.NoError(t, err)
	return account
}

// TestBudgetHoldsItsCap: batches of any size, several of a stream at a time, claimed by many: all get
// through, and never more is taken than there is.
func TestBudgetHoldsItsCap(t *testing.T) {
	b := newTestBudget(20)
	var group errgroup.Group
	for i := range 20 {
		account := mustAdmit(t, b, func() { t.Error("evicted") })
		group.Go(func() error {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			defer account.leave()
			var held []int64
			for range 200 {
				if len(held) == 3 || len(held) > 0 && rng.IntN(2) == 0 {
					account.unclaim(held[0])
					held = held[1:]
					continue
				}
				n := 1 + rng.Int64N(b.limit/4)
				if len(held) > 0 {
					// What is prepared ahead may have to wait for the stream's own batches.
					n = 1 + rng.Int64N(1000)
					account.unclaim(held[0])
					held = held[1:]
				}
				if err := account.claim(t.Context(), n); err != nil {
					return err
				}
				held = append(held, n)
				if used := b.Used(); used > b.Total() {
					t.Errorf("%d bytes of %d are taken", used, b.Total())
				}
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	require.Zero(t, b.Used())
	require.Empty(t, b.queue)
}

func TestBudgetLetsOneBatchProceedAlways(t *testing.T) {
	b := newTestBudget(1)
	account := mustAdmit(t, b, nil)
	require.NoError(t, account.claim(t.Context(), 10*b.Total()))
	account.resize(10*b.Total(), 5)
	require.EqualValues(t, streamBytes+5, b.Used())
}

func TestBudgetPreparesAheadInHalfOfTheRoom(t *testing.T) {
	b := newTestBudget(2)
	ahead, other := mustAdmit(t, b, nil), mustAdmit(t, b, nil)
	require.NoError(t, ahead.claim(t.Context(), b.limit/2))
	soon, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	require.ErrorIs(t, ahead.claim(soon, 10), context.DeadlineExceeded, "its second batch")
	require.NoError(t, other.claim(t.Context(), b.limit/2), "another stream's first")
	other.unclaim(b.limit / 2)
	ahead.unclaim(b.limit / 2)
	ahead.leave()
	ahead.leave()
	other.leave()
	require.Zero(t, b.Used())
}

func TestBudgetRefusesMoreStreamsThanItHasRoomFor(t *testing.T) {
	b := newTestBudget(3)
	for range 3 {
		require.False(t, b.Full())
		mustAdmit(t, b, nil)
	}
	require.True(t, b.Full())
	_, err := b.admit(nil)
	require.ErrorContains(t, err, "--stream-memory")
}

// TestBudgetTakesFromAStalledClient: the stream whose client takes nothing ends when another waits for
// its memory, and one whose function is merely slow does not.
func TestBudgetTakesFromAStalledClient(t *testing.T) {
	b := newTestBudget(3)
	b.Stall = 10 * time.Millisecond
	var stalled *tenant
	stalled = mustAdmit(t, b, func() { go stalled.leave() })
	slow := mustAdmit(t, b, func() { t.Error("the slow stream was evicted") })
	waiting := mustAdmit(t, b, nil)
	half := b.limit / 2
	require.NoError(t, slow.claim(t.Context(), half))
	require.NoError(t, stalled.claim(t.Context(), half))
	stalled.waits(true)
	require.NoError(t, waiting.claim(t.Context(), half))
	require.EqualValues(t, 1, b.Evictions())
}

func TestNoBudgetHasNoBounds(t *testing.T) {
	var b *Budget
	account := mustAdmit(t, b, nil)
	require.NoError(t, account.keep(1<<40))
	require.NoError(t, account.claim(t.Context(), 1<<40))
	account.resize(1<<40, 1)
	account.waits(true)
	account.unclaim(1)
	account.leave()
}
