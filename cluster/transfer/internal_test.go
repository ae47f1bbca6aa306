package transfer

import (
	"context"
	"errors"
	"io"
	"os"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
)

// TestNamesThatDifferByCase: where a file system takes two names for one, the second is refused, whichever that is.
func TestNamesThatDifferByCase(t *testing.T) {
	l := NewLocal(t.TempDir(), false)
	root, err := l.open(true)
	require.NoError(t, err)
	defer l.Close()
	for _, name := range []string{"a/File", "a/file"} {
		require.NoError(t, l.checkCase(root, name), "this file system tells them apart")
	}
	l.folded = map[string]string{}
	require.NoError(t, l.checkCase(root, "a/File"))
	require.NoError(t, l.checkCase(root, "a/File"), "again")
	require.ErrorContains(t, l.checkCase(root, "A/file"), "a/File is the same file here")
}

// TestABodyThatHangs: whoever gives a copy up does not wait for who writes to its pipe.
func TestABodyThatHangs(t *testing.T) {
	reader, writer := io.Pipe()
	s := StreamSource("stdin", reader)
	body := newBody(t.Context(), s.Side, *s.One, false, nil, func(int64) {})
	done := make(chan error, 1)
	go func() {
		_, err := body.Read(make([]byte, 10))
		done <- err
	}()
	_, err := writer.Write([]byte("x")) // the reading has begun
	require.NoError(t, err)
	require.NoError(t, <-done)
	go func() {
		_, err := body.Read(make([]byte, 10))
		done <- err
	}()
	require.Eventually(t, func() bool {
		if body.mu.TryLock() {
			body.mu.Unlock()
			return false
		}
		return true
	}, time.Minute, time.Millisecond, "it hangs")
	require.NoError(t, body.failure())
	require.NoError(t, body.Close())
	require.NoError(t, writer.CloseWithError(errors.New("gone")))
	require.ErrorContains(t, <-done, "gone")
}

// TestTwoProcessesOfOneFile: a part that another process writes to is left to it.
func TestTwoProcessesOfOneFile(t *testing.T) {
	l := NewLocal(t.TempDir(), false)
	root, err := l.open(true)
	require.NoError(t, err)
	defer l.Close()
	body := func() *Body {
		return newBody(context.Background(), l, File{Entry: backend.Entry{Name: "x", Size: 9 << 20, Tag: "t"}}, false, nil, func(int64) {})
	}
	first, err := l.begin(root, "x", body(), 9<<20, "t")
	require.NoError(t, err)
	require.True(t, first.keep)
	second, err := l.begin(root, "x", body(), 9<<20, "t")
	require.NoError(t, err)
	require.False(t, second.keep)
	require.NotEqual(t, first.name, second.name)
	second.close()
	require.NoError(t, os.Remove(l.dir+first.name)) // as the other process does at its end
	first.close()
	third, err := l.begin(root, "x", body(), 9<<20, "t")
	require.NoError(t, err)
	require.True(t, third.keep)
	third.close()
}
