package calls_test

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/calls"
)

func TestCallsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := calls.New(1)
		first, err := book.Begin(t.Context())
		require.NoError(t, err)
		second := make(chan *calls.Call, 1)
		go func() {
			c, err := book.Begin(context.Background())
			if err == nil {
				second <- c
			}
		}()
		synctest.Wait()
		require.Empty(t, second, "there is one place")
		require.EqualValues(t, 2, book.Stats(0).Waiting)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = book.Begin(short)
		require.ErrorIs(t, err, context.DeadlineExceeded)

		time.Sleep(time.Second)
		first.End(1, 1)
		first.End(1, 1) // counts once
		c := <-second
		require.NoError(t, c.Cause())
		c.End(3, 0)
		stats := book.Stats(1)
		require.EqualValues(t, 4, stats.Samples)
		require.EqualValues(t, 1, stats.Errors)
		require.EqualValues(t, 0, stats.Waiting)
		require.GreaterOrEqual(t, stats.Busy, 2*time.Second)
		require.EqualValues(t, 2, stats.Latency.Count())
	})
}

func TestDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		book := calls.New(2)
		patient, err := book.Begin(t.Context())
		require.NoError(t, err)
		ended := make(chan struct{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		go func() {
			defer close(ended)
			book.Drain(ctx)
		}()
		synctest.Wait()
		_, err = book.Begin(t.Context())
		require.ErrorIs(t, err, etl.ErrClosed)
		require.NoError(t, patient.Cause(), "it may finish")
		<-patient.Ctx.Done() // but not for ever
		require.ErrorIs(t, patient.Cause(), etl.ErrClosed)
		patient.End(1, 1)
		<-ended
	})
}

// TestStall: only time in which the other side is waited for counts, and only as long as nothing moves.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var fired error
		stall := calls.NewStall(time.Second, func(err error) { fired = err })
		slow := stall.Source(readerFunc(func(p []byte) (int, error) {
			time.Sleep(time.Hour) // this side's disk
			return len(p), nil
		}))
		stall.Await(true)
		_, _ = slow.Read(make([]byte, 1))
		synctest.Wait()
		require.NoError(t, fired)
		for range 5 { // each piece that is taken is progress
			time.Sleep(900 * time.Millisecond)
			_, _ = stall.Source(strings.NewReader("x")).Read(make([]byte, 1))
		}
		stall.Await(false)
		time.Sleep(time.Hour) // nobody asks for more: a slow client
		synctest.Wait()
		require.NoError(t, fired)
		stuck := stall.Answer(readerFunc(func([]byte) (int, error) {
			time.Sleep(2 * time.Second)
			return 0, io.EOF
		}))
		_, _ = stuck.Read(make([]byte, 1))
		synctest.Wait()
		var e *calls.StallError
		require.ErrorAs(t, fired, &e)
		require.Equal(t, time.Second, e.Limit)
		stall.Stop()
	})
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

func TestAnswerIsBounded(t *testing.T) {
	for _, c := range []struct {
		limit int64
		want  string
	}{{5, "hello"}, {4, ""}} {
		book := calls.New(1)
		call, err := book.Begin(t.Context())
		require.NoError(t, err)
		closed := 0
		body := call.Answer(strings.NewReader("hello"), func() { closed++ }, "k", c.limit, func(err error) error { return errors.Join(errors.New("mine"), err) })
		got, err := io.ReadAll(body)
		if c.want == "" {
			var size *etl.SizeError
			require.ErrorAs(t, err, &size)
			require.ErrorContains(t, err, "mine")
		} else {
			require.NoError(t, err)
			require.Equal(t, c.want, string(got))
		}
		require.NoError(t, body.Close())
		require.NoError(t, body.Close())
		require.Equal(t, 1, closed)
		require.EqualValues(t, 0, book.Stats(0).Waiting)
	}
}
