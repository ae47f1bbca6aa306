package backend_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
)

var policy = backend.Policy{Backend: "s3://b"}

func TestWhatPassesIsTriedAgain(t *testing.T) {
	for _, test := range []struct {
		kind     backend.Kind
		fails    int
		attempts int
		succeeds bool
	}{
		{backend.Passing, 0, 1, true},
		{backend.Passing, 1, 2, true},
		{backend.Passing, 5, 6, true},
		{backend.Passing, 6, 6, false},
		{backend.Busy, 7, 8, true},
		{backend.NotFound, 1, 1, false},
		{backend.NoBucket, 1, 1, false},
		{backend.Denied, 1, 1, false},
		{backend.Changed, 1, 1, false},
		{backend.Forbidden, 1, 1, false},
		{backend.Unsupported, 1, 1, false},
		{backend.Failed, 1, 1, false},
	} {
		t.Run(fmt.Sprintf("%v %d times", test.kind, test.fails), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(map[string][]byte{"a": []byte("1")})
				f.answer = func(_ string, call int) error {
					if call < test.fails {
						return failure(test.kind)
					}
					return nil
				}
				b := backend.WithRetries(f, policy)
				_, err := b.Stat(t.Context(), "a")
				require.Equal(t, test.succeeds, err == nil, "%v", err)
				if err != nil {
					require.Equal(t, test.kind, backend.KindOf(err))
				}
				require.Equal(t, test.attempts, f.count("stat"))
			})
		})
	}
}

func TestErrorsThatAreNoneOfABackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(nil)
		f.answer = func(string, int) error { return io.ErrUnexpectedEOF }
		_, err := backend.WithRetries(f, policy).Stat(t.Context(), "a")
		var typed *backend.Error
		require.ErrorAs(t, err, &typed)
		require.Equal(t, "stat s3://b/a: interrupted: unexpected EOF", err.Error())
		require.Equal(t, 6, f.count("stat"))
	})
}

func TestTheCallersContextEndsACall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(nil)
		f.answer = func(string, int) error { return failure(backend.Passing) }
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		_, err := backend.WithRetries(f, backend.Policy{Base: time.Hour, Limit: time.Hour}).Stat(ctx, "a")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, backend.Failed, backend.KindOf(err))
	})
}

func TestASlowAttemptIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(nil)
		f.took = time.Hour
		start := time.Now()
		_, err := backend.WithRetries(f, policy).Stat(t.Context(), "a")
		require.Equal(t, backend.Passing, backend.KindOf(err))
		require.ErrorContains(t, err, "did not answer in time")
		require.Equal(t, 2, f.count("stat"))
		require.Less(t, time.Since(start), 90*time.Second)
	})
}

// A storm of 429s: all calls wait as long as the backend asked, none longer than its patience, and when the storm is
// over all succeed.
func TestBusyIsForAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string][]byte{"a": []byte("1")})
		storm := time.Now().Add(20 * time.Second)
		var at []time.Time
		f.answer = func(string, int) error {
			f.mu.Lock()
			at = append(at, time.Now())
			f.mu.Unlock()
			if time.Now().Before(storm) {
				return busy(5 * time.Second)
			}
			return nil
		}
		b := backend.WithRetries(f, backend.Policy{Requests: 16})
		var wait sync.WaitGroup
		for range 100 {
			wait.Go(func() {
				_, err := b.Stat(t.Context(), "a")
				require.NoError(t, err)
			})
		}
		wait.Wait()
		inStorm := 0
		for i, when := range at {
			if when.Before(storm) {
				inStorm++
			}
			if i > 0 && when != at[i-1] && when.Before(storm) {
				require.GreaterOrEqual(t, when.Sub(at[i-1]), 5*time.Second, "it asked to be left alone")
			}
		}
		require.LessOrEqual(t, inStorm, 16+8+4+2+1, "half as many each time")
	})
}

func TestPatienceWithABusyBackendEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(nil)
		f.answer = func(string, int) error { return busy(25 * time.Second) }
		b := backend.WithRetries(f, backend.Policy{Patience: time.Minute})
		var wait sync.WaitGroup
		start := time.Now()
		for range 200 {
			wait.Go(func() {
				_, err := b.Stat(t.Context(), "a")
				require.Equal(t, backend.Busy, backend.KindOf(err), "%v", err)
				require.LessOrEqual(t, time.Since(start), time.Minute)
				var e *backend.Error
				require.ErrorAs(t, err, &e)
				require.Positive(t, e.After)
			})
		}
		wait.Wait()

		other := backend.WithRetries(newFake(map[string][]byte{"a": nil}), policy)
		start = time.Now()
		_, err := other.Stat(t.Context(), "a")
		require.NoError(t, err, "another backend is not touched")
		require.Zero(t, time.Since(start))
	})
}

func TestRetryAfterIsCapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string][]byte{"a": nil})
		f.answer = func(_ string, call int) error {
			if call == 0 {
				return busy(24 * time.Hour)
			}
			return nil
		}
		start := time.Now()
		_, err := backend.WithRetries(f, policy).Stat(t.Context(), "a")
		require.NoError(t, err)
		require.Equal(t, 30*time.Second, time.Since(start))
	})
}

func TestRequestsAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string][]byte{"a": nil})
		f.took = time.Second
		b := backend.WithRetries(f, backend.Policy{Requests: 3})
		var wait sync.WaitGroup
		for range 30 {
			wait.Go(func() {
				_, err := b.Stat(t.Context(), "a")
				require.NoError(t, err)
			})
		}
		wait.Wait()
		require.Equal(t, 3, f.most)

		// One that gives up leaves its place to the next.
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		for range 10 {
			wait.Go(func() { _, _ = b.Stat(ctx, "a") })
		}
		wait.Wait()
		_, err := b.Stat(t.Context(), "a")
		require.NoError(t, err)
	})
}

func TestBodiesAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string][]byte{"a": []byte("1")})
		b := backend.WithRetries(f, backend.Policy{Bodies: 1, Patience: time.Second})
		first, err := b.Open(t.Context(), "a", backend.OpenOptions{})
		require.NoError(t, err)
		_, err = b.Open(t.Context(), "a", backend.OpenOptions{})
		require.Equal(t, backend.Busy, backend.KindOf(err))
		_, err = b.Stat(t.Context(), "a")
		require.NoError(t, err, "who reads slowly keeps nobody from asking")
		require.NoError(t, first.Close())
		require.NoError(t, first.Close())
		second, err := b.Open(t.Context(), "a", backend.OpenOptions{})
		require.NoError(t, err)
		require.NoError(t, second.Close())
	})
}

func TestPutIsSentAgainFromItsStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string][]byte{})
		f.answer = func(_ string, call int) error {
			return []error{failure(backend.Passing), failure(backend.Corrupt), busy(time.Second), nil}[call]
		}
		body := bytes.NewReader([]byte("..hello"))
		_, _ = body.Seek(2, io.SeekStart)
		e, err := backend.WithRetries(f, policy).Put(t.Context(), "a", body, 5, backend.PutOptions{})
		require.NoError(t, err)
		require.Equal(t, int64(5), e.Size)
		require.Equal(t, "hello", string(f.objects["a"]))
	})
}

func TestAListingGoesOnWhereItWas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		objects := map[string][]byte{}
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprintf("p/%02d", i))
			objects[want[i]] = nil
		}
		f := newFake(objects)
		f.answer = func(_ string, call int) error {
			if call%3 == 2 {
				return failure(backend.Passing)
			}
			return nil
		}
		var got []string
		for e, err := range backend.WithRetries(f, policy).List(t.Context(), "p/", "") {
			require.NoError(t, err)
			got = append(got, e.Name)
		}
		require.Equal(t, want, got)
	})
}

// What takes long is no less patient at its end than at its beginning.
func TestLongCallsAreTakenUpAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string][]byte{"a": []byte("1"), "b": []byte("2"), "c": []byte("3")})
		f.took = 50 * time.Second
		f.answer = func(op string, call int) error {
			if call == 0 && op != "list" {
				return failure(backend.Passing)
			}
			return nil
		}
		b := backend.WithRetries(&choppy{f}, backend.Policy{Backend: "s3://b", Stall: time.Minute, Patience: 30 * time.Second})
		var names []string
		for e, err := range b.List(t.Context(), "", "") {
			require.NoError(t, err)
			names = append(names, e.Name)
			time.Sleep(time.Hour) // whoever takes them is slow
		}
		require.Equal(t, []string{"a", "b", "c"}, names)
		_, err := b.Put(t.Context(), "d", bytes.NewReader([]byte("4")), 1, backend.PutOptions{})
		require.NoError(t, err)
		require.Equal(t, 2, f.count("put"))
	})
}

// Servers that copy an upload's parts before they answer are waited for, and those that hang are not.
func TestAPutMayTakeLongToBeAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for awaited, puts := range map[time.Duration]int{0: 3, time.Hour: 1} {
			f := newFake(map[string][]byte{})
			f.took = 10 * time.Minute
			b := backend.WithRetries(&slowToAnswer{f, awaited}, backend.Policy{Backend: "s3://b", Patience: 2 * time.Hour, Attempts: 3})
			_, err := b.Put(t.Context(), "d", bytes.NewReader([]byte("4")), 1, backend.PutOptions{})
			require.Equal(t, awaited > 0, err == nil, "%v", err)
			require.Equal(t, puts, f.count("put"))
		}
	})
}

type slowToAnswer struct {
	*fake
	awaited time.Duration
}

func (s *slowToAnswer) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, o backend.PutOptions) (backend.Entry, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return backend.Entry{}, err
	}
	if s.awaited > 0 {
		backend.Await(body, s.awaited)
	}
	return s.fake.Put(ctx, name, bytes.NewReader(data), size, o)
}

// choppy is a backend whose listings break off after each name.
type choppy struct{ *fake }

func (c *choppy) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		for e, err := range c.fake.List(ctx, prefix, after) {
			if yield(e, err) {
				yield(backend.Entry{}, failure(backend.Passing))
			}
			return
		}
	}
}

func TestAListingThatFailsIsNotShorter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string][]byte{"a": nil, "b": nil, "c": nil})
		f.answer = func(_ string, call int) error {
			if call >= 2 {
				return failure(backend.Passing)
			}
			return nil
		}
		var got []string
		var last error
		for e, err := range backend.WithRetries(f, policy).List(t.Context(), "", "") {
			if last = err; err == nil {
				got = append(got, e.Name)
			}
		}
		require.Equal(t, []string{"a", "b"}, got)
		require.Equal(t, backend.Passing, backend.KindOf(last))
	})
}

type observations []backend.Observation

func (o *observations) Observe(seen backend.Observation) { *o = append(*o, seen) }

func TestObserver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(map[string][]byte{"a": bytes.Repeat([]byte("x"), 1000)})
		f.body = func(call int, r io.Reader) io.Reader {
			if call == 0 {
				return cut(r, 300, errors.New("reset"))
			}
			return r
		}
		var seen observations
		b := backend.WithRetries(f, backend.Policy{Observer: &seen})
		body, err := b.Open(t.Context(), "a", backend.OpenOptions{})
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
		_, err = b.Stat(t.Context(), "none")
		require.Error(t, err)
		require.Len(t, seen, 3)
		require.Equal(t, "open", seen[0].Op)
		require.Equal(t, "read", seen[1].Op)
		require.Equal(t, int64(1000), seen[1].Bytes)
		require.Equal(t, 1, seen[1].Retries)
		require.NoError(t, seen[1].Err)
		require.Equal(t, backend.NotFound, backend.KindOf(seen[2].Err))
	})
}
