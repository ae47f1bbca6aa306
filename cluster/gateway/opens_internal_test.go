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
