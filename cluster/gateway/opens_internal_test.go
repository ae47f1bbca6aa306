package gateway

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

// TestNobodyJoinsWhatWasGivenUp: of two who wait behind a run of the work, the first goes away before it has
// begun; the second gets an answer all the same.
func TestNobodyJoinsWhatWasGivenUp(t *testing.T) {
	var o opens
	begun, finish := make(chan struct{}, 3), make(chan struct{})
	work := func(ctx context.Context, _ *progress) (*api.StreamInfo, error) {
		begun <- struct{}{}
		select {
		case <-finish:
			return &api.StreamInfo{}, ctx.Err()
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ask := func(ctx context.Context) chan error {
		answer := make(chan error, 1)
		go func() {
			_, err := o.do(ctx, "sources", work)
			answer <- err
		}()
		return answer
	}
	waiting := func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		run := o.waiting["sources"]
		return run != nil && run.askers == 1
	}
	first := ask(t.Context())
	<-begun
	ctx, cancel := context.WithCancel(t.Context())
	second := ask(ctx)
	require.Eventually(t, waiting, 10*time.Second, time.Millisecond)
	cancel()
	require.ErrorIs(t, <-second, context.Canceled)
	third := ask(t.Context())
	require.Eventually(t, waiting, 10*time.Second, time.Millisecond)
	close(finish)
	require.NoError(t, <-first)
	require.NoError(t, <-third)
}

// TestLongOpeningsAreJoined: who gives up while shards are described at a backend comes back to the same run of the work, and
// gets its result though it was done before.
func TestLongOpeningsAreJoined(t *testing.T) {
	var o opens
	runs, finish := make(chan struct{}, 3), make(chan struct{})
	work := func(ctx context.Context, p *progress) (*api.StreamInfo, error) {
		p.found(100)
		p.described(10)
		runs <- struct{}{}
		select {
		case <-finish:
			return &api.StreamInfo{Samples: 5}, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() {
		_, err := o.do(ctx, "sources", work)
		first <- err
	}()
	<-runs
	cancel()
	require.ErrorIs(t, <-first, context.Canceled)
	o.mu.Lock()
	run := o.long["sources"]
	o.mu.Unlock()
	require.NotNil(t, run)
	require.NoError(t, run.ctx.Err(), "it goes on")
	close(finish)
	<-run.done
	info, err := o.do(t.Context(), "sources", work)
	require.NoError(t, err)
	require.EqualValues(t, 5, info.Samples)
	require.Empty(t, runs, "it was not done anew")
	_, err = o.do(t.Context(), "sources", work)
	require.NoError(t, err)
	require.Len(t, runs, 1, "who comes now gets a new one")
}

// TestLongOpeningsEnd: nobody comes back to it.
func TestLongOpeningsEnd(t *testing.T) {
	var o opens
	begun := make(chan struct{})
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = o.do(ctx, "sources", func(ctx context.Context, p *progress) (*api.StreamInfo, error) {
			p.found(1)
			close(begun)
			<-ctx.Done()
			ended <- ctx.Err()
			return nil, ctx.Err()
		})
	}()
	<-begun
	cancel()
	require.Eventually(t, func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.long["sources"] != nil
	}, 10*time.Second, time.Millisecond)
	o.mu.Lock()
	run := o.long["sources"]
	o.mu.Unlock()
	o.expire("sources", run)
	require.ErrorIs(t, <-ended, context.Canceled)
}
