package ahead

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/sampler"
)

// expecting is a manager that fetches one object after the other, and what it has fetched.
func expecting(t *testing.T, budget int64, fetch func(key string) error) (m *Manager, w *world, look func(now time.Time), fetched *[]string) {
	w = newWorld(t, sampler.Shuffle{Mode: sampler.Shards, Seed: 9}, simShards)
	fetched = new([]string)
	m = w.bare(budget, func(key string) error {
		if err := fetch(key); err != nil {
			return err
		}
		*fetched = append(*fetched, key)
		w.cached[object{"cold", key}] = true
		return nil
	})
	return m, w, func(now time.Time) { m.look(t, now, fetched) }, fetched
}

func granted(string) error { return nil }

// While a stream is being opened, what it is going to need is fetched as it was told, as far as the budget of an opening reaches;
// a later opening has one of its own.
func TestExpectedObjectsAreFetchedWithinTheBudget(t *testing.T) {
	m, _, look, fetched := expecting(t, 3, granted)
	var told []string
	for i := range 5 {
		key := fmt.Sprintf("new-%d.tar", i)
		told = append(told, key)
		m.Expect("cold", key, 1, 1)
	}
	m.Expect("warm", "own.tar", 1, 1)
	look(time.Now())
	require.Equal(t, told[:3], *fetched)
	require.Len(t, m.fetched, 3)

	m.expected["cold"].last = time.Now().Add(-2 * expectFor)
	m.Expect("cold", "later.tar", 1, 1)
	look(time.Now())
	require.Equal(t, append(told[:3:3], "later.tar"), *fetched)
	for range 2 {
		look(time.Now().Add(2 * expectFor))
	}
	require.Empty(t, m.expected)
	require.Empty(t, m.fetched, "what no stream has come to plan is off the account")
}

// Guesses give way: to the order of the stream once it is there, and for good where there is no room for them, which says
// nothing about what a stream needs.
func TestExpectedObjectsGiveWay(t *testing.T) {
	full := true
	m, w, look, fetched := expecting(t, simShards, func(string) error {
		if full {
			return ErrNoRoom
		}
		return nil
	})
	planned := w.planned(t)
	m.Expect("cold", planned[9], 1, 1)
	look(time.Now())
	require.Empty(t, *fetched)
	full = false
	m.Expect("cold", planned[8], 1, 1)
	look(time.Now())
	require.Empty(t, *fetched, "not of this opening")

	m.expected["cold"].last = time.Now().Add(-2 * expectFor)
	m.Expect("cold", planned[9], 1, 1)
	m.Expect("cold", "of-another-stream.tar", 1, 1)
	c := m.Open(w.plan, 0, 0)
	defer c.Close()
	look(time.Now())
	require.Equal(t, planned[:3], (*fetched)[:3], "in the order of the stream, and at once")
	require.Contains(t, *fetched, "of-another-stream.tar")
}

// A manager that is not there expects nothing.
func TestNobodyExpects(*testing.T) { (*Manager)(nil).Expect("cold", "a.tar", 1, 1) }

// Failures don't give an opening its budget again, and neither do they end those of others.
func TestFailedGuessesEndThoseOfTheirOpening(t *testing.T) {
	m, _, look, fetched := expecting(t, 3, func(key string) error {
		if key == "1.tar" {
			return errors.New("the backend fails")
		}
		return nil
	})
	for i := range 100 {
		m.Expect("cold", fmt.Sprintf("%d.tar", i), 1, 1)
		look(time.Now())
	}
	require.Equal(t, []string{"0.tar"}, *fetched)
}

// A shard that is larger than the budget is fetched if it is needed first, and otherwise left to the stream.
func TestLargeShardsEndNoGuesses(t *testing.T) {
	m, _, look, fetched := expecting(t, 10, granted)
	m.Expect("cold", "small.tar", 1, 1)
	m.Expect("cold", "large.tar", 1, 11)
	m.Expect("cold", "another.tar", 1, 1)
	look(time.Now())
	require.Equal(t, []string{"small.tar", "another.tar"}, *fetched)
}

// Guesses that have come true count as read ahead: a stream begins with what they leave of the budget. Those that no stream
// has come to take nothing of it.
func TestGuessesAndTheBudgetOfStreams(t *testing.T) {
	for name, c := range map[string]struct {
		come  bool
		ahead int // that are fetched in all
	}{"planned": {true, 5}, "of others": {false, 9}} {
		t.Run(name, func(t *testing.T) {
			m, w, look, fetched := expecting(t, 4, granted)
			for _, key := range w.planned(t)[:4] {
				if !c.come {
					key = "other-" + key
				}
				m.Expect("cold", key, 1, 1)
			}
			look(time.Now())
			require.Len(t, *fetched, 4)
			defer m.Open(w.plan, 0, 0).Close()
			look(time.Now())
			require.LessOrEqual(t, len(*fetched), c.ahead)
			require.GreaterOrEqual(t, len(*fetched), c.ahead-1)
		})
	}
}
