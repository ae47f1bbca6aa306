package api_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

func TestPatternsMatch(t *testing.T) {
	for name, c := range map[string]struct {
		address string
		prefix  string
		yes, no []string
	}{
		"key":           {"ss://b/a/x.tar", "a/x.tar", []string{"a/x.tar"}, []string{"a/x.tar2", "x.tar"}},
		"bucket":        {"ss://b", "", []string{"x", "a/b"}, nil},
		"bucket, slash": {"ss://b/", "", []string{"x", "a/b"}, nil},
		"prefix":        {"ss://b/train/", "train/", []string{"train/1.tar", "train/x/2.tar"}, []string{"val/1.tar"}},
		"star":          {"ss://b/train-*.tar", "train-", []string{"train-1.tar", "train-.tar"}, []string{"train-1.tgz", "train-a/b.tar"}},
		"range":         {"ss://b/t-{008..011}.tar", "t-0", []string{"t-008.tar", "t-010.tar", "t-011.tar"}, []string{"t-8.tar", "t-012.tar"}},
		"list":          {"ss://b/{train,val}/x.tar", "", []string{"train/x.tar", "val/x.tar"}, []string{"test/x.tar"}},
		"two braces":    {"ss://b/{x,y}{1..2}", "", []string{"x1", "x2", "y1", "y2"}, []string{"x3", "xy", "x", "12"}},
		"widths":        {"ss://b/t-{0008..0010}.t", "t-00", []string{"t-0008.t", "t-0009.t", "t-0010.t"}, []string{"t-8.t", "t-0011.t"}},
		"nested":        {"ss://b/{a{1..2},c}.tar", "", []string{"a1.tar", "a2.tar", "c.tar"}, []string{"a3.tar", "a{1..2}.tar"}},
		"brace, star":   {"ss://b/{a,b}-?.tar", "", []string{"a-1.tar", "b-2.tar"}, []string{"c-1.tar", "a-10.tar"}},
		"exact":         {"=ss://b/x[1] {a}*.tar", "x[1] {a}*.tar", []string{"x[1] {a}*.tar"}, []string{"x1 a.tar", "x[1] {a}b.tar"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := api.ParsePattern(c.address)
			require.NoError(t, err)
			require.Equal(t, "b", s.Bucket)
			require.Equal(t, c.prefix, s.Prefix)
			for _, k := range c.yes {
				require.True(t, s.Match(k), k)
			}
			for _, k := range c.no {
				require.False(t, s.Match(k), k)
			}
		})
	}
}

func TestPatternNamesEachMissingShard(t *testing.T) {
	s, err := api.ParsePattern("ss://b/t-{0..2}.tar")
	require.NoError(t, err)
	require.True(t, s.Match("t-0.tar"))
	require.True(t, s.Match("t-2.tar"))
	name, missing := s.Missing()
	require.True(t, missing)
	require.Equal(t, "t-1.tar", name)
}

func TestPatternsRefused(t *testing.T) {
	for _, address := range []string{
		"", "b/x.tar", "s3://b/x.tar", "ss://", "ss:///x.tar", "ss://b*/x.tar", "ss://b/{a", "ss://b/a}", "ss://b/{a}.tar",
		"ss://b/{9..1}", "ss://b/{0..99999999}", "ss://b/{0..9999}{0..9999}", "ss://b/x[", "ss://b/{a..b}",
		"ss://b/{1..", "=", "=b/x", "=ss://b", "=ss://b/x/", "=ss:///x", "ss://b/{5..1}", "ss://b/{0..999}{0..999}",
	} {
		_, err := api.ParsePattern(address)
		require.Error(t, err, address)
	}
}

// TestPatternsBeyondReasonAreRefusedEarly: a short request must not make a gateway fill its memory.
func TestPatternsBeyondReasonAreRefusedEarly(t *testing.T) {
	for name, key := range map[string]string{
		"long":          strings.Repeat("a", 1<<20),
		"long names":    "{0..99999}" + strings.Repeat("a", 60_000),
		"many digits":   "{" + strings.Repeat("0", 60_000) + "..99999}",
		"lists of many": "{" + strings.Repeat("{0..99999},", 5_000) + "a}",
		"deep":          strings.Repeat("{a,", 20_000) + "b" + strings.Repeat("}", 20_000),
		"groups":        strings.Repeat("{a,b}", 12_000),
		"many globs":    "{0..99999}*.tar",
	} {
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			_, err := api.ParsePattern("ss://b/" + key)
			require.Error(t, err)
			require.Less(t, len(err.Error()), 500)
			require.Less(t, time.Since(began), 5*time.Second)
		})
	}
}

func FuzzParsePattern(f *testing.F) {
	f.Add("ss://b/t-{0..9}{a,b{c,d}}*.tar")
	f.Fuzz(func(t *testing.T, address string) {
		if len(address) > 64 {
			t.Skip("long ranges only cost time")
		}
		s, err := api.ParsePattern(address)
		if err != nil {
			return
		}
		name, missing := s.Missing()
		for range 1000 {
			if !missing {
				break
			}
			require.True(t, strings.HasPrefix(name, s.Prefix))
			require.True(t, s.Match(name), "a name that was written out matches itself")
			name, missing = s.Missing()
		}
	})
}

func TestManifestLines(t *testing.T) {
	got, err := api.ParseManifest([]byte("\xef# no address\n"))
	require.ErrorContains(t, err, "line 1", "%v", got)
	got, err = api.ParseManifest([]byte("ss://b/a\r\n#c\n\n\t{\"url\": \"ss://b/ x \", \"n\": [1]}\nss://b/{1..2}*"))
	require.NoError(t, err)
	require.Equal(t, []string{"ss://b/a", "ss://b/ x ", "ss://b/{1..2}*"}, got)
	for says, data := range map[string]string{
		"lists no objects":  "# nothing",
		"line 3":            "\n\nb/a",
		"line 1 is not":     "{\"url\": 5}",
		"more than 1048576": strings.Repeat("ss://b/a\n", 1<<20+1),
		"bytes, at most":    strings.Repeat("#", api.MaxManifest+1),
	} {
		_, err := api.ParseManifest([]byte(data))
		require.ErrorContains(t, err, says)
	}
}

func FuzzParseManifest(f *testing.F) {
	f.Add([]byte("ss://b/a\n# c\n{\"url\": \"ss://b/c\"}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		addresses, err := api.ParseManifest(data)
		if err != nil {
			require.Empty(t, addresses)
			return
		}
		require.NotEmpty(t, addresses)
		for _, address := range addresses {
			p, err := api.ParsePattern(api.ExactPrefix + address)
			if err != nil {
				continue // a key longer than there are
			}
			key, ok := p.Name()
			require.True(t, ok)
			require.Equal(t, address, api.Address(p.Bucket, key))
		}
	})
}
