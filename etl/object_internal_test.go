package etl

import (
	"context"
	"io"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestAnswersThatAreGivenUpHaveNoEnd: the context may end between two reads, while the function goes on to its end. What
// was read by then must not pass for the whole.
func TestAnswersThatAreGivenUpHaveNoEnd(t *testing.T) {
	for range 50 { // which of two events the reader sees first is a matter of chance
		ctx, cancel := context.WithCancel(t.Context())
		call := newObjectCall(ctx, Object{})
		first := make(chan struct{})
		go func() {
			call.piece([]byte("first"))
			close(first)
		}()
		answer := <-call.answer
		require.NoError(t, answer.err)
		head := make([]byte, 5)
		_, err := io.ReadFull(answer.output.Body, head)
		require.NoError(t, err)
		<-first
		cancel()
		call.piece([]byte("second"))
		call.end(nil)
		rest, err := io.ReadAll(answer.output.Body)
		require.ErrorIs(t, err, context.Canceled)
		require.Empty(t, rest)
		require.NoError(t, answer.output.Body.Close())
	}
}
