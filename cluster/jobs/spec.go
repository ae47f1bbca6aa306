package jobs

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl"
)

// Bounds of a specification.
const (
	DefaultPatience = time.Hour
	maxPatience     = 30 * 24 * time.Hour
	maxExtensions   = 1000
)

// kinds are those of jobs.
var kinds = []string{api.JobTransform, api.JobScrub, api.JobPrefetch, api.JobEvict}

// others is a member of a specification that is not for its kind, "" where there is none.
func others(spec api.JobSpec) string {
	for kind, there := range map[string]bool{
		api.JobTransform: spec.Transform != nil, api.JobScrub: spec.Scrub != nil,
		api.JobPrefetch: spec.Prefetch != nil, api.JobEvict: spec.Evict != nil,
	} {
		if there && kind != spec.Kind {
			return kind
		}
	}
	return ""
}

// Transform is a transformation job as it runs: its specification, checked and taken apart.
type Transform struct {
	api.TransformSpec
	Pattern *api.Pattern // of the source; it serves one goroutine
	Bucket  string       // of the outputs
	Prefix  string       // of their names
	Level   string       // of the transformation; sets what becomes of objects that are no archives
}

// Patience is how long a node that is away is waited for.
func (t *Transform) Patience() time.Duration {
	if t.PatienceS == 0 {
		return DefaultPatience
	}
	return time.Duration(t.PatienceS * float64(time.Second))
}

// ParseTransform checks a specification as far as that is possible without looking at the cluster. Its errors are
// *api.Error.
func ParseTransform(spec api.JobSpec, level string) (*Transform, error) {
	if spec.Kind != api.JobTransform {
		return nil, bad("kind %.80q is not a kind of job; %s are", spec.Kind, strings.Join(kinds, ", "))
	}
	if other := others(spec); other != "" {
		return nil, bad("a job of kind %q has no member %s", spec.Kind, other)
	}
	if spec.Transform == nil {
		return nil, bad("a job of kind %q needs the member transform", spec.Kind)
	}
	t := &Transform{TransformSpec: *spec.Transform, Level: level}
	var err error
	if t.Pattern, err = api.ParsePattern(t.Source); err != nil {
		return nil, err
	}
	if err := store.CheckBucket(t.Pattern.Bucket); err != nil {
		return nil, api.Errorf(http.StatusBadRequest, api.CodeBadName, "source: %v", err)
	}
	if err := t.parseDestination(); err != nil {
		return nil, err
	}
	if err := t.checkNaming(); err != nil {
		return nil, err
	}
	if err := etl.ValidateArgs(t.Args); err != nil {
		return nil, bad("%v", err)
	}
	switch {
	case t.MaxErrors != nil && *t.MaxErrors < 0:
		return nil, bad("max_errors %d is negative; leave it out to let any number of objects fail", *t.MaxErrors)
	case math.IsNaN(t.PatienceS) || t.PatienceS < 0 || t.PatienceS > maxPatience.Seconds():
		return nil, bad("patience_s %g: use a number of seconds of at most %.0f, or 0 for %.0f", t.PatienceS, maxPatience.Seconds(), DefaultPatience.Seconds())
	}
	return t, nil
}

func (t *Transform) parseDestination() error {
	bucket, prefix, err := api.ParseAddress(t.Destination)
	if err != nil {
		return bad("destination: %v", err)
	}
	if err := store.CheckBucket(bucket); err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadName, "destination: %v", err)
	}
	if prefix != "" && !strings.HasSuffix(prefix, "/") {
		return bad("destination %.200q names an object; outputs go below a bucket or a prefix, which ends in /: %.200s/", t.Destination, t.Destination)
	}
	t.Bucket, t.Prefix = bucket, prefix+t.Prepend
	if t.Prefix != "" {
		if err := store.CheckName(t.Prefix + "x"); err != nil {
			return api.Errorf(http.StatusBadRequest, api.CodeBadName, "destination and prepend: %v", err)
		}
	}
	return nil
}

func (t *Transform) checkNaming() error {
	if t.StripPrefix != "" && !strings.HasPrefix(t.Pattern.Prefix, t.StripPrefix) {
		return bad("strip_prefix %.200q: the names that source %.200s stands for need not begin with it; they begin with %.200q",
			t.StripPrefix, t.Source, t.Pattern.Prefix)
	}
	if len(t.Extensions) > maxExtensions {
		return bad("%d extensions, at most %d are possible", len(t.Extensions), maxExtensions)
	}
	for _, from := range slices.Sorted(maps.Keys(t.Extensions)) {
		for _, ext := range []string{from, t.Extensions[from]} {
			if ext == "" || strings.ContainsAny(ext, "/") || strings.HasPrefix(ext, ".") || store.CheckName("x."+ext) != nil {
				return bad("extensions: %.80q is not an extension such as jpg, without a dot before it", ext)
			}
		}
	}
	if t.Bucket == t.Pattern.Bucket && t.Pattern.Tree() && strings.HasPrefix(t.Prefix, t.Pattern.Prefix) && t.StripPrefix == "" {
		return t.within(t.Prefix)
	}
	return nil
}

// within is the error for outputs that would be sources of their own job.
func (t *Transform) within(name string) error {
	return bad("%s would be an output of this job and a source at once; let outputs go to another bucket, or to a prefix that source %.200s does not take in",
		api.Address(t.Bucket, name), t.Source)
}

// Output is the name of a source's output. Its errors are *api.Error: the name can't be, or would be a source.
func (t *Transform) Output(name string, archived bool) (string, error) {
	out := strings.TrimPrefix(name, t.StripPrefix)
	dir, base := path.Split(out)
	if stem, ext, ok := cutExtension(base, t.Extensions); ok {
		base = stem + "." + ext
	}
	// Samples leave as a tar, whatever they came as.
	if t.Level != etl.LevelObject && !archived && !strings.HasSuffix(strings.ToLower(base), ".tar") {
		base += ".tar"
	}
	out = t.Prefix + dir + base
	if err := store.CheckName(out); err != nil {
		return "", api.Errorf(http.StatusBadRequest, api.CodeBadName, "the output of %s can't be stored: %v", api.Address(t.Pattern.Bucket, name), err)
	}
	if t.Bucket == t.Pattern.Bucket && t.Pattern.Match(out) {
		return "", t.within(out)
	}
	return out, nil
}

// cutExtension finds the longest extension of a name that the table has: of a.seg.png "seg.png", then "png".
func cutExtension(base string, table map[string]string) (stem, ext string, ok bool) {
	if len(table) == 0 {
		return "", "", false
	}
	for at := strings.IndexByte(base, '.'); at >= 0; {
		if to, known := table[base[at+1:]]; known && at > 0 {
			return base[:at], to, true
		}
		next := strings.IndexByte(base[at+1:], '.')
		if next < 0 {
			break
		}
		at += 1 + next
	}
	return "", "", false
}

// OneToOne says that no two sources can have the same output.
func (t *Transform) OneToOne() bool { return len(t.Extensions) == 0 && t.Level == etl.LevelObject }

// Collision is the error for two sources of one output.
func (t *Transform) Collision(out, one, other string) error {
	return api.Errorf(http.StatusConflict, api.CodeExists, "%s would be the output of two sources: %s and %s; transform them by jobs of their own, with other prefixes",
		api.Address(t.Bucket, out), one, other)
}

func bad(format string, args ...any) error {
	return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, format, args...)
}

// AsError makes a document of any error, so that it can be kept.
func AsError(err error) *api.Error {
	var answer *api.Error
	if errors.As(err, &answer) {
		return answer
	}
	return api.Errorf(http.StatusInternalServerError, api.CodeInternal, "%v", fmt.Errorf("job: %w", err))
}
