package target

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

// deaf is a reader's side that reads nothing until it is given up.
func deaf(ctx context.Context, _ io.Reader) error {
	<-ctx.Done()
	return context.Cause(ctx)
}

func TestFanGivesAllReadersTheBody(t *testing.T) {
	body := bytes.Repeat([]byte("body"), 1<<20)
	f := newFan(t.Context(), bytes.NewReader(body))
	got := make([][]byte, 3)
	for i := range got {
		f.add(func(_ context.Context, r io.Reader) (err error) {
			got[i], err = io.ReadAll(r)
			return err
		})
	}
	own, err := io.ReadAll(f)
	require.NoError(t, errors.Join(err, f.end(err)))
	require.Equal(t, body, own)
	for i := range got {
		require.Equal(t, body, got[i])
	}
}

// TestFanGivesUpWhoTakesNothing: a reader that hangs ends the whole, also where all of the body has been handed on.
func TestFanGivesUpWhoTakesNothing(t *testing.T) {
	for name, size := range map[string]int{"in the middle": 2 * fanPieces * fanPiece, "at the end": fanPiece} {
		t.Run(name, func(t *testing.T) {
			f := newFan(t.Context(), bytes.NewReader(make([]byte, size)))
			f.pause, f.last = time.Millisecond, time.Millisecond
			f.add(deaf)
			_, err := io.Copy(io.Discard, f)
			err = f.end(err)
			var answer *api.Error
			require.ErrorAs(t, err, &answer)
			require.Equal(t, api.CodeUnavailable, answer.Code)
		})
	}
}
