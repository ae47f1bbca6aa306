package backend_test

import (
	"bytes"
	"context"
	"crypto/md5"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
	"pgregory.net/rapid"

	"github.com/shardstream/shardstream/core/backend"
)

// fake is a backend whose calls fail as a script says.
type fake struct {
	mu      sync.Mutex
	objects map[string][]byte
	tag     string
	sums    func([]byte) backend.Sums
	// answer is asked before each call; nil: all is well.
	answer func(op string, call int) error
	// body wraps what is read.
	body    func(call int, r io.Reader) io.Reader
	calls   map[string]int
	active  int
	most    int // requests at a time
	opens   []backend.OpenOptions
	took    time.Duration // of each call
	unsized bool
}

func newFake(objects map[string][]byte) *fake {
	return &fake{objects: objects, tag: "tag-1", calls: map[string]int{}}
}

func (f *fake) call(ctx context.Context, op string) error {
	f.mu.Lock()
	n := f.calls[op]
	f.calls[op]++
	f.active++
	f.most = max(f.most, f.active)
	f.mu.Unlock()
	defer func() {
		f.mu.Lock()
		f.active--
		f.mu.Unlock()
	}()
	if f.took > 0 {
		select {
		case <-time.After(f.took):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if f.answer == nil {
		return nil
	}
	return f.answer(op, n)
}

func (f *fake) count(op string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

func (f *fake) entry(name string) (backend.Entry, error) {
	data, known := f.objects[name]
	if !known {
		return backend.Entry{}, failure(backend.NotFound)
	}
	e := backend.Entry{Name: name, Size: int64(len(data)), Tag: f.tag}
	if f.unsized {
		e.Size = -1
	}
	if f.sums != nil {
		e.Sums = f.sums(data)
	}
	return e, nil
}

func (f *fake) Stat(ctx context.Context, name string) (backend.Entry, error) {
	if err := f.call(ctx, "stat"); err != nil {
		return backend.Entry{}, err
	}
	return f.entry(name)
}

func (f *fake) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	call := f.count("open")
	if err := f.call(ctx, "open"); err != nil {
		return nil, err
	}
	e, err := f.entry(name)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.opens = append(f.opens, o)
	f.mu.Unlock()
	data := f.objects[name][min(o.Offset, int64(len(f.objects[name]))):]
	if o.Length > 0 {
		data = data[:min(o.Length, int64(len(data)))]
	}
	b := &backend.Body{Entry: e, Offset: o.Offset, Length: int64(len(data))}
	if f.unsized {
		b.Length = -1
	}
	var r io.Reader = bytes.NewReader(data)
	if f.body != nil {
		r = f.body(call, r)
	}
	b.ReadCloser = &until{ctx, r}
	return b, nil
}

// until ends with its context, as a body of HTTP does.
type until struct {
	ctx context.Context //nolint:containedctx // of the call
	io.Reader
}

func (u *until) Read(p []byte) (int, error) {
	if s, ok := u.Reader.(*stalling); ok && s.due() {
		<-u.ctx.Done()
		return 0, u.ctx.Err()
	}
	return u.Reader.Read(p)
}

func (u *until) Close() error { return nil }

// stalling says nothing more after some bytes.
type stalling struct {
	io.Reader
	left int64
}

func (s *stalling) due() bool { return s.left <= 0 }
func (s *stalling) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p[:min(int64(len(p)), s.left)])
	s.left -= int64(n)
	return n, err
}

// cut breaks off with an error after some bytes.
func cut(r io.Reader, after int64, err error) io.Reader {
	return io.MultiReader(io.LimitReader(r, after), iotestErr{err})
}

type iotestErr struct{ err error }

func (e iotestErr) Read([]byte) (int, error) { return 0, e.err }

func (f *fake) Put(ctx context.Context, name string, body io.ReadSeeker, size int64, _ backend.PutOptions) (backend.Entry, error) {
	data, err := io.ReadAll(body)
	if err != nil || int64(len(data)) != size {
		return backend.Entry{}, fmt.Errorf("%d bytes: %w", len(data), err)
	}
	if err := f.call(ctx, "put"); err != nil {
		return backend.Entry{}, err
	}
	f.objects[name] = data
	return f.entry(name)
}

func (f *fake) Delete(ctx context.Context, name string) error {
	if err := f.call(ctx, "delete"); err != nil {
		return err
	}
	delete(f.objects, name)
	return nil
}

func (f *fake) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		var names []string
		for name := range f.objects {
			if name > after && len(name) >= len(prefix) && name[:len(prefix)] == prefix {
				names = append(names, name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			if err := f.call(ctx, "list"); err != nil {
				yield(backend.Entry{}, err)
				return
			}
			e, _ := f.entry(name)
			if !yield(e, nil) {
				return
			}
		}
	}
}

func (f *fake) Close() error { return nil }

func failure(kind backend.Kind) error {
	return &backend.Error{Backend: "s3://b", Op: "stat", Kind: kind}
}

func busy(after time.Duration) error {
	return &backend.Error{Backend: "s3://b", Op: "stat", Kind: backend.Busy, Status: 429, After: after}
}

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
		require.Equal(t, 6, f.count("stat"))
		require.Less(t, time.Since(start), 10*time.Minute)
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

func md5Of(data []byte) backend.Sums {
	sum := md5.Sum(data)
	return backend.Sums{MD5: sum[:]}
}

func xxh3Of(data []byte) backend.Sums {
	sum := xxh3.Hash(data)
	return backend.Sums{XXH3: &sum}
}

// However a body is cut, stalled or ended early, what is read is the range, or an error: never less, never other bytes.
func TestBodiesAreWholeOrAnError(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		data := rapid.SliceOfN(rapid.Byte(), 1, 400_000).Draw(rt, "data")
		size := int64(len(data))
		offset := rapid.Int64Range(0, size-1).Draw(rt, "offset")
		length := rapid.Int64Range(0, size).Draw(rt, "length")
		if rapid.Bool().Draw(rt, "whole") {
			offset, length = 0, 0
		}
		want := data[offset:]
		if length > 0 {
			want = want[:min(length, int64(len(want)))]
		}
		faults := rapid.SliceOfN(rapid.SampledFrom([]string{"", "cut", "short", "stall", "changed", "passing", "busy"}), 0, 9).Draw(rt, "faults")
		where := rapid.SliceOfN(rapid.Int64Range(0, size), 9, 9).Draw(rt, "where")
		damaged := rapid.Bool().Draw(rt, "damaged") && offset == 0 && length == 0
		tagless := rapid.Bool().Draw(rt, "tagless")
		piece := rapid.IntRange(1, 300_000).Draw(rt, "piece")
		synctest.Test(t, func(t *testing.T) {
			f := newFake(map[string][]byte{"a": data})
			f.sums = md5Of
			if damaged {
				f.sums = func([]byte) backend.Sums { return xxh3Of([]byte("something else")) }
			}
			if tagless {
				f.tag = ""
			}
			fault := func(call int) string {
				if call < len(faults) {
					return faults[call]
				}
				return ""
			}
			f.answer = func(_ string, call int) error {
				switch fault(call) {
				case "passing":
					return failure(backend.Passing)
				case "busy":
					return busy(0)
				case "changed":
					if call > 0 {
						f.tag = "tag-2"
					}
				}
				return nil
			}
			f.body = func(call int, r io.Reader) io.Reader {
				switch fault(call) {
				case "cut":
					return cut(r, where[call], errors.New("connection reset by peer"))
				case "short":
					return io.LimitReader(r, where[call])
				case "stall":
					return &stalling{r, where[call]}
				}
				return r
			}
			b := backend.WithRetries(f, policy)
			body, err := b.Open(t.Context(), "a", backend.OpenOptions{Offset: offset, Length: length})
			if err != nil {
				return
			}
			var got []byte
			buffer := make([]byte, piece)
			for err == nil {
				var n int
				n, err = body.Read(buffer)
				got = append(got, buffer[:n]...)
			}
			require.NoError(t, body.Close())
			if errors.Is(err, io.EOF) {
				require.Equal(t, want, got)
				require.False(t, damaged)
				return
			}
			require.True(t, bytes.HasPrefix(want, got))
			if damaged {
				require.Less(t, len(got), len(want), "all of a damaged object was handed out")
			}
			var typed *backend.Error
			require.ErrorAs(t, err, &typed)
			for i, o := range f.opens {
				require.True(t, i == 0 || tagless && o.Offset == 0 || o.Tag == "tag-1", "resumed on other bytes: %+v", f.opens)
			}
		})
	})
}

func TestCutsWithoutEndAreBounded(t *testing.T) {
	for name, each := range map[string]int64{"nothing": 0, "a byte": 1, "much": 128 << 10} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				data := bytes.Repeat([]byte("0123456789abcdef"), 128<<10)
				f := newFake(map[string][]byte{"a": data})
				f.sums = xxh3Of
				f.body = func(_ int, r io.Reader) io.Reader { return cut(r, each, errors.New("reset")) }
				body, err := backend.WithRetries(f, policy).Open(t.Context(), "a", backend.OpenOptions{})
				require.NoError(t, err)
				got, err := io.ReadAll(body)
				require.NoError(t, body.Close())
				if name == "much" {
					require.NoError(t, err)
					require.Equal(t, data, got)
					return
				}
				require.Equal(t, backend.Passing, backend.KindOf(err), "%v", err)
				require.Equal(t, 6, f.count("open"))
			})
		})
	}
}

func TestABodyOfUnknownLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := bytes.Repeat([]byte("x"), 100_000)
		f := newFake(map[string][]byte{"a": data})
		f.unsized, f.sums = true, md5Of
		f.body = func(call int, r io.Reader) io.Reader {
			if call == 0 {
				return cut(r, 70_000, io.ErrUnexpectedEOF)
			}
			return r
		}
		body, err := backend.WithRetries(f, policy).Open(t.Context(), "a", backend.OpenOptions{})
		require.NoError(t, err)
		require.Equal(t, int64(-1), body.Length)
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, data, got)
	})
}

// An answer that does not say how long it is, and ends early as if that were all.
func TestAShortAnswerIsNotTakenForWhole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		data := bytes.Repeat([]byte("x"), 100_000)
		f := &shortAnswers{newFake(map[string][]byte{"a": data})}
		f.body = func(call int, r io.Reader) io.Reader {
			if call == 0 {
				return io.LimitReader(r, 70_000)
			}
			return r
		}
		body, err := backend.WithRetries(f, policy).Open(t.Context(), "a", backend.OpenOptions{})
		require.NoError(t, err)
		require.Equal(t, int64(100_000), body.Length)
		got, err := io.ReadAll(body)
		require.NoError(t, err)
		require.Equal(t, data, got)
		require.Equal(t, 2, f.count("open"))
	})
}

// shortAnswers is a backend that says how large objects are where it is asked for that alone.
type shortAnswers struct{ *fake }

func (s *shortAnswers) Open(ctx context.Context, name string, o backend.OpenOptions) (*backend.Body, error) {
	b, err := s.fake.Open(ctx, name, o)
	if err == nil {
		b.Entry.Size, b.Length = -1, -1
	}
	return b, err
}
