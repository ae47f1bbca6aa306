package backend_test

import (
	"bytes"
	"errors"
	"iter"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/backend"
)

// keys yields what a backend lists, and then an error, if any.
func keys(err error, entries ...backend.Entry) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		for _, e := range entries {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(backend.Entry{}, err)
		}
	}
}

// listing is what becomes of it, below p/.
func listing(t *testing.T, err error, entries ...backend.Entry) ([]string, error) {
	t.Helper()
	var names []string
	for e, err := range backend.Listing(t.Context(), backend.Address{Scheme: backend.S3, Host: "b", Path: "p"}, keys(err, entries...)) {
		if err != nil {
			return names, err
		}
		names = append(names, e.Name)
	}
	return names, nil
}

func TestListing(t *testing.T) {
	var log bytes.Buffer
	before := slog.Default()
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	t.Cleanup(func() { slog.SetDefault(before) })

	names, err := listing(t, nil,
		backend.Entry{Name: "p/"}, // a folder, as consoles make them
		backend.Entry{Name: "p/a", Size: 1},
		backend.Entry{Name: "p/a", Size: 1}, // a page may begin with the last name of the one before
		backend.Entry{Name: "p/d/"},
		backend.Entry{Name: "p/d/b"},
		backend.Entry{Name: "p2", Size: 1}, // beside it
	)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "d/b"}, names)
	require.Empty(t, log.String())

	names, err = listing(t, nil,
		backend.Entry{Name: "p/../etc", Size: 1},
		backend.Entry{Name: "p/a", Size: 1},
		backend.Entry{Name: "p/b//c", Size: 1},
		backend.Entry{Name: "p/c/", Size: 1},
		backend.Entry{Name: "p/d\x01", Size: 1},
		backend.Entry{Name: "p/e" + strings.Repeat("e", 1024), Size: 1},
		backend.Entry{Name: "p/f", Size: 1},
	)
	require.NoError(t, err)
	require.Equal(t, []string{"a", "f"}, names)
	require.Equal(t, 1, strings.Count(log.String(), "\n"), "one warning: %s", log.String())
	require.Contains(t, log.String(), "objects=5 first=../etc")
	require.Contains(t, log.String(), "backend=s3://b/p")

	names, err = listing(t, nil, backend.Entry{Name: "p/b", Size: 1}, backend.Entry{Name: "p/a", Size: 1})
	require.Equal(t, backend.Unsupported, backend.KindOf(err), "%v", err)
	require.Equal(t, []string{"b"}, names)

	broken := errors.New("broken")
	names, err = listing(t, broken, backend.Entry{Name: "p/a", Size: 1})
	require.ErrorIs(t, err, broken)
	require.Equal(t, []string{"a"}, names)
}

func TestPrefix(t *testing.T) {
	for text, prefix := range map[string]string{"s3://b": "", "s3://b/": "", "s3://b/p": "p/", "s3://b/p/": "p/", "s3://b/p/q": "p/q/"} {
		a, err := backend.ParseAddress(text)
		require.NoError(t, err)
		require.Equal(t, prefix, a.Prefix(), text)
	}
}

func TestAddressesDoNotTellPasswords(t *testing.T) {
	for _, text := range []string{
		"s3://key:SECRET@bucket/prefix", "https://user:SECRET@host/path", "https://user:SECRET/SECRET@host/path", "ftp://user:SECRET@host",
	} {
		_, err := backend.ParseAddress(text)
		require.Error(t, err, text)
		require.NotContains(t, err.Error(), "SECRET")
	}
}

func TestFields(t *testing.T) {
	c := backend.Config{Address: backend.Address{Scheme: backend.S3, Host: "b"}, Credentials: map[string]string{"key": "SECRET"}}
	require.NoError(t, c.CheckFields("other", "key"))
	err := c.CheckFields("other", "another")
	require.Equal(t, backend.Denied, backend.KindOf(err))
	require.ErrorContains(t, err, "other, another")
	require.NotContains(t, err.Error(), "SECRET")
}
