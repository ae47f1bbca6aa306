package jobs_test

import (
	"errors"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl"
)

func spec(change func(*api.TransformSpec)) api.JobSpec {
	t := api.TransformSpec{ETL: "f", Source: "ss://in/a/", Destination: "ss://out/p/"}
	if change != nil {
		change(&t)
	}
	return api.JobSpec{Kind: api.JobTransform, Transform: &t}
}

func TestOutputNames(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(*api.TransformSpec)
		level    string
		archived bool
		source   string
		want     string
	}{
		"whole name below the prefix": {source: "a/b/x.jpg", want: "p/a/b/x.jpg"},
		"no prefix": {
			change: func(s *api.TransformSpec) { s.Destination = "ss://out" },
			source: "a/x.jpg", want: "a/x.jpg",
		},
		"stripped": {
			change: func(s *api.TransformSpec) { s.StripPrefix = "a/" },
			source: "a/b/x.jpg", want: "p/b/x.jpg",
		},
		"prepended": {
			change: func(s *api.TransformSpec) { s.Prepend = "small-" },
			source: "a/x.jpg", want: "p/small-a/x.jpg",
		},
		"extension": {
			change: func(s *api.TransformSpec) { s.Extensions = map[string]string{"jpg": "npy"} },
			source: "a/b.jpg/x.jpg", want: "p/a/b.jpg/x.npy",
		},
		"another extension": {
			change: func(s *api.TransformSpec) { s.Extensions = map[string]string{"jpg": "npy"} },
			source: "a/x.png", want: "p/a/x.png",
		},
		"the longest extension": {
			change: func(s *api.TransformSpec) { s.Extensions = map[string]string{"png": "npy", "seg.png": "mask.npy"} },
			source: "a/x.1.seg.png", want: "p/a/x.1.mask.npy",
		},
		"a hidden file has none": {
			change: func(s *api.TransformSpec) { s.Extensions = map[string]string{"jpg": "npy"} },
			source: "a/.jpg", want: "p/a/.jpg",
		},
		"samples of an archive":  {level: etl.LevelSample, archived: true, source: "a/x.tar", want: "p/a/x.tar"},
		"samples of an object":   {level: etl.LevelSample, source: "a/x.jpg", want: "p/a/x.jpg.tar"},
		"samples of a plain tar": {level: etl.LevelBatch, source: "a/x.TAR", want: "p/a/x.TAR"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.level == "" {
				c.level = etl.LevelObject
			}
			transform, err := jobs.ParseTransform(spec(c.change), c.level)
			require.NoError(t, err)
			out, err := transform.Output(c.source, c.archived)
			require.NoError(t, err)
			require.Equal(t, c.want, out)
		})
	}
}

func TestRefusedSpecifications(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api.TransformSpec)
		says   string
	}{
		"source without scheme": {func(s *api.TransformSpec) { s.Source = "in/a" }, "ss://"},
		"source bucket":         {func(s *api.TransformSpec) { s.Source = "ss://../x" }, "bucket"},
		"destination object":    {func(s *api.TransformSpec) { s.Destination = "ss://out/p" }, "ss://out/p/"},
		"destination escapes":   {func(s *api.TransformSpec) { s.Destination = "ss://out/../x/" }, "'..'"},
		"prepend escapes":       {func(s *api.TransformSpec) { s.Prepend = "../" }, "'..'"},
		"prepend is absolute":   {func(s *api.TransformSpec) { s.Destination = "ss://out/"; s.Prepend = "/x" }, "'/'"},
		"strip":                 {func(s *api.TransformSpec) { s.StripPrefix = "b/" }, `"a/"`},
		"extension with a dot":  {func(s *api.TransformSpec) { s.Extensions = map[string]string{"jpg": ".npy"} }, ".npy"},
		"empty extension":       {func(s *api.TransformSpec) { s.Extensions = map[string]string{"jpg": ""} }, "extension"},
		"extension with a path": {func(s *api.TransformSpec) { s.Extensions = map[string]string{"jpg": "a/b"} }, "a/b"},
		"args":                  {func(s *api.TransformSpec) { s.Args = []byte(`[1]`) }, "JSON object"},
		"max_errors":            {func(s *api.TransformSpec) { n := int64(-1); s.MaxErrors = &n }, "negative"},
		"patience":              {func(s *api.TransformSpec) { s.PatienceS = math.NaN() }, "patience_s"},
		"into itself":           {func(s *api.TransformSpec) { s.Destination = "ss://in/a/" }, "source at once"},
		"below itself":          {func(s *api.TransformSpec) { s.Source = "ss://in/"; s.Destination = "ss://in/b/" }, "source at once"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := jobs.ParseTransform(spec(c.change), etl.LevelObject)
			var answer *api.Error
			require.ErrorAs(t, err, &answer)
			require.Equal(t, 400, answer.Status)
			require.Contains(t, answer.Message, c.says)
		})
	}
	for _, s := range []api.JobSpec{{}, {Kind: "copy"}, {Kind: api.JobTransform}} {
		_, err := jobs.ParseTransform(s, etl.LevelObject)
		require.Error(t, err)
	}
}

// TestOneBucketForBoth: outputs may go to the bucket of their sources where they can't be sources themselves.
func TestOneBucketForBoth(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*api.TransformSpec)
		source string
		fine   bool
	}{
		"another prefix": {func(s *api.TransformSpec) { s.Destination = "ss://in/b/" }, "a/x", true},
		"glob that does not cross the slash": {
			func(s *api.TransformSpec) { s.Source = "ss://in/*.jpg"; s.Destination = "ss://in/b/" }, "x.jpg", true,
		},
		"glob that takes outputs in": {
			func(s *api.TransformSpec) { s.Source = "ss://in/*.jpg"; s.Destination = "ss://in/"; s.Prepend = "new-" }, "x.jpg", false,
		},
		"another extension": {
			func(s *api.TransformSpec) {
				s.Source, s.Destination, s.Extensions = "ss://in/*.jpg", "ss://in/", map[string]string{"jpg": "npy"}
			}, "x.jpg", true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			transform, err := jobs.ParseTransform(spec(c.change), etl.LevelObject)
			require.NoError(t, err)
			require.True(t, transform.Pattern.Match(c.source))
			_, err = transform.Output(c.source, false)
			if c.fine {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, "source at once")
		})
	}
}

func TestMarks(t *testing.T) {
	source := store.Info{Bucket: "in", Name: "a/ü b%.jpg", Version: 7, XXH3: 9}
	mark := jobs.NewMark("one", "f", 3, []byte(`{"size":1}`), source)
	require.Equal(t, mark, jobs.ParseMark(mark.Meta()), "a mark survives being stored")
	for name, value := range mark.Meta() {
		for _, r := range name + value {
			require.True(t, r > ' ' && r < 0x7f, "%s=%q can't be a header", name, value)
		}
	}
	require.True(t, mark.Same(jobs.NewMark("two", "f", 3, []byte(`{"size":1}`), source)), "the job makes no difference")
	newer := source
	newer.Version++
	for name, other := range map[string]jobs.Mark{
		"the source's version": jobs.NewMark("one", "f", 3, []byte(`{"size":1}`), newer),
		"the etl's version":    jobs.NewMark("one", "f", 4, []byte(`{"size":1}`), source),
		"the etl":              jobs.NewMark("one", "g", 3, []byte(`{"size":1}`), source),
		"the arguments":        jobs.NewMark("one", "f", 3, []byte(`{"size":2}`), source),
		"no arguments":         jobs.NewMark("one", "f", 3, nil, source),
		"no mark":              jobs.ParseMark(nil),
	} {
		require.False(t, mark.Same(other), name)
	}
}

func TestFailuresAreBounded(t *testing.T) {
	var f jobs.Failures
	long := make([]byte, 1<<20)
	fault := api.Errorf(422, api.CodeETLFailed, "begin%send", long)
	require.True(t, f.Add(api.JobFailure{Object: "ss://in/a", Error: fault}))
	require.False(t, f.Add(api.JobFailure{Object: "ss://in/a", Error: fault}), "each object once")
	require.Less(t, len(f.List[0].Error.Message), 10_000)
	require.Regexp(t, "(?s)^begin.*end$", f.List[0].Error.Message)
	require.Greater(t, len(fault.Message), 1<<20, "the error itself is untouched")
	for i := range 5000 {
		f.Add(api.JobFailure{Object: string(rune('a' + i)), Error: errorOf(errors.New("small"))})
	}
	require.Len(t, f.List, jobs.MaxFailures)
}

func errorOf(err error) *api.Error { return jobs.AsError(err) }
