package backend_test

import (
	"context"
	"crypto/md5"
	"crypto/sha256"
	"errors"
	"hash/crc32"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/core/backend"
)

func TestSummed(t *testing.T) {
	text := "what is to be put"
	body := strings.NewReader(text)
	_, err := body.Seek(5, io.SeekStart)
	require.NoError(t, err)
	sums, err := backend.Summed(body, int64(len(text)), backend.Sums{}, backend.AllSums)
	require.NoError(t, err)
	md, sha, crc, xxh := md5.Sum([]byte(text)), sha256.Sum256([]byte(text)), crc32.Checksum([]byte(text), backend.Castagnoli), xxh3.HashString(text)
	require.Equal(t, backend.Sums{MD5: md[:], SHA256: sha[:], CRC32C: &crc, XXH3: &xxh}, sums)
	rest, err := io.ReadAll(body)
	require.NoError(t, err)
	require.Equal(t, text, string(rest), "it is at its start again")

	one, err := backend.Summed(body, int64(len(text)), backend.Sums{XXH3: &xxh}, backend.Sums{CRC32C: new(uint32)})
	require.NoError(t, err)
	require.Equal(t, backend.Sums{CRC32C: &crc, XXH3: &xxh}, one, "what is asked for, and no more")

	other := xxh + 1
	_, err = backend.Summed(body, int64(len(text)), backend.Sums{XXH3: &other}, backend.Sums{})
	require.Equal(t, backend.Corrupt, backend.KindOf(err), "%v", err)
	for _, size := range []int64{int64(len(text)) - 1, int64(len(text)) + 1, 0} {
		_, err = backend.Summed(body, size, backend.Sums{}, backend.Sums{})
		require.ErrorContains(t, err, "should have", "size %d", size)
	}
	refused := backend.Address{Scheme: backend.S3, Host: "b"}.Refused("name", err)
	require.ErrorContains(t, refused, "put s3://b/name")
}

func TestReaderAt(t *testing.T) {
	for name, body := range map[string]io.ReadSeeker{
		"by place": strings.NewReader("0123456789"), "by seeking": struct{ io.ReadSeeker }{strings.NewReader("0123456789")},
	} {
		t.Run(name, func(t *testing.T) {
			at := backend.ReaderAt(body)
			for range 2 {
				part, err := io.ReadAll(io.NewSectionReader(at, 3, 4))
				require.NoError(t, err)
				require.Equal(t, "3456", string(part))
			}
			n, err := at.ReadAt(make([]byte, 5), 8)
			require.Equal(t, 2, n)
			require.ErrorIs(t, err, io.EOF)
		})
	}
}

func TestContentRange(t *testing.T) {
	offset, length, size, err := backend.ParseContentRange("bytes 5-9/20")
	require.NoError(t, err)
	require.Equal(t, []int64{5, 5, 20}, []int64{offset, length, size})
	_, _, size, err = backend.ParseContentRange("bytes 0-0/*")
	require.NoError(t, err)
	require.Equal(t, int64(-1), size)
	for _, bad := range []string{"", "bytes", "5-9/20", "bytes 5/20", "bytes 9-5/20", "bytes 5-20/20", "bytes -1-5/20", "bytes a-b/c", "bytes 5-9/x"} {
		_, _, _, err = backend.ParseContentRange(bad)
		require.Error(t, err, bad)
	}
	_, _, _, err = backend.ParseContentRange("bytes 20-19/20")
	require.Equal(t, backend.Range, backend.KindOf(err))
}

// Bytes that are not those that were asked for never come out of a body.
func TestNewBody(t *testing.T) {
	open := func(text string, o backend.OpenOptions, length int64, contentRange string) (string, error) {
		e := backend.Entry{Name: "x", Size: length, Tag: "tag"}
		body, err := backend.NewBody(io.NopCloser(strings.NewReader(text)), e, o, length, contentRange, func(err error) error {
			kind, err := backend.Broken(context.Background(), err)
			return &backend.Error{Op: "read", Kind: kind, Err: err}
		})
		if err != nil {
			return "", err
		}
		got, err := io.ReadAll(body)
		return string(got), err
	}
	got, err := open("0123456789", backend.OpenOptions{}, 10, "")
	require.NoError(t, err)
	require.Equal(t, "0123456789", got)
	got, err = open("345", backend.OpenOptions{Offset: 3, Length: 3, Tag: "tag"}, 3, "bytes 3-5/10")
	require.NoError(t, err)
	require.Equal(t, "345", got)

	for name, test := range map[string]struct {
		text         string
		o            backend.OpenOptions
		length       int64
		contentRange string
		kind         backend.Kind
		got          string
	}{
		"cut":            {"012", backend.OpenOptions{}, 10, "", backend.Passing, "012"},
		"too long":       {"0123", backend.OpenOptions{}, 3, "", backend.Passing, "012"},
		"no range":       {"0123456789", backend.OpenOptions{Offset: 3}, 10, "", backend.Passing, ""},
		"another range":  {"345", backend.OpenOptions{Offset: 4, Length: 3}, 3, "bytes 3-5/10", backend.Passing, ""},
		"a longer range": {"3456", backend.OpenOptions{Offset: 3, Length: 3}, 4, "bytes 3-6/10", backend.Passing, ""},
		"another tag":    {"012", backend.OpenOptions{Tag: "before"}, 3, "", backend.Changed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := open(test.text, test.o, test.length, test.contentRange)
			require.Equal(t, test.kind, backend.KindOf(err), "%v", err)
			require.Equal(t, test.got, got)
		})
	}
}

func TestRetryAfter(t *testing.T) {
	for header, want := range map[string]time.Duration{"": 0, "5": 5 * time.Second, "x": 0, "-1": 0, "Mon, 02 Jan 2006 15:04:05 GMT": 0} {
		require.Equal(t, want, backend.RetryAfter(http.Header{"Retry-After": {header}}), header)
	}
	require.Equal(t, 250*time.Millisecond, backend.RetryAfter(http.Header{"X-Ms-Retry-After-Ms": {"250"}}))
	in := backend.RetryAfter(http.Header{"Retry-After": {time.Now().Add(time.Hour).UTC().Format(http.TimeFormat)}})
	require.Greater(t, in, 50*time.Minute)
	require.LessOrEqual(t, in, time.Hour)
}

func TestBroken(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	at := &url.Error{Op: "Get", URL: "http://h/?sig=SECRET", Err: io.ErrUnexpectedEOF}
	kind, err := backend.Broken(ctx, at)
	require.Equal(t, backend.Passing, kind)
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.NotContains(t, err.Error(), "SECRET")

	guard := &backend.Error{Kind: backend.Forbidden, Err: errors.New("refused")}
	kind, err = backend.Broken(ctx, &url.Error{Op: "Get", URL: "http://h/", Err: guard})
	require.Equal(t, backend.Forbidden, kind)
	require.ErrorContains(t, err, "refused")

	cause := errors.New("nobody waits any more")
	cancel(cause)
	kind, err = backend.Broken(ctx, at)
	require.Equal(t, backend.Failed, kind)
	require.ErrorIs(t, err, cause)
}
