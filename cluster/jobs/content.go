package jobs

import (
	"net/http"
	"slices"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

// Content is a job about what is cached of a bucket with a backend, as it runs.
type Content struct {
	Kind   string // api.JobPrefetch or api.JobEvict
	Bucket string
	// Pattern says which objects; it serves one goroutine. nil: those of Names.
	Pattern *api.Pattern
	Names   []string // sorted, each once
}

// ParseContent checks a specification as far as that is possible without looking at the cluster. Its errors are
// *api.Error.
func ParseContent(spec api.JobSpec) (*Content, error) {
	of := spec.Prefetch
	if spec.Kind == api.JobEvict {
		of = spec.Evict
	}
	if other := others(spec); other != "" {
		return nil, bad("a job of kind %q has no member %s", spec.Kind, other)
	}
	if of == nil {
		return nil, bad("a job of kind %q needs the member %s, with the bucket", spec.Kind, spec.Kind)
	}
	if err := store.CheckBucket(of.Bucket); err != nil {
		return nil, api.Errorf(http.StatusBadRequest, api.CodeBadName, "bucket: %v", err)
	}
	given := 0
	for _, there := range []bool{of.Prefix != "", of.Pattern != "", len(of.Names) > 0} {
		if there {
			given++
		}
	}
	if given > 1 {
		return nil, bad("prefix, pattern and names: say one of them")
	}
	c := &Content{Kind: spec.Kind, Bucket: of.Bucket}
	if len(of.Names) > 0 {
		c.Names = slices.Compact(slices.Sorted(slices.Values(of.Names)))
		for _, name := range c.Names {
			if err := store.CheckName(name); err != nil {
				return nil, api.Errorf(http.StatusBadRequest, api.CodeBadName, "names: %v", err)
			}
		}
		return c, nil
	}
	if strings.HasPrefix(of.Pattern, api.Scheme) {
		return nil, bad("pattern %.200q is of names within the bucket: leave %s%s/ out", of.Pattern, api.Scheme, of.Bucket)
	}
	var err error
	if of.Pattern != "" {
		c.Pattern, err = api.ParsePattern(api.Address(of.Bucket, of.Pattern))
	} else {
		c.Pattern = api.PrefixPattern(of.Bucket, of.Prefix)
	}
	return c, err
}

// Missing is the error for a source that stands for nothing, or not for all that it names; nil where it does. A job that
// takes something away does not need it to be there.
func (c *Content) Missing(objects int64) error {
	if c.Kind == api.JobEvict || c.Pattern == nil {
		return nil
	}
	if name, missing := c.Pattern.Missing(); missing {
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "there is no object %s; correct the pattern", api.Address(c.Bucket, name))
	}
	if objects == 0 {
		return api.Errorf(http.StatusNotFound, api.CodeNoMatch, "%s matches no object; `shardstream ls %s` shows what is there",
			c.Pattern.Address, api.Address(c.Bucket, ""))
	}
	return nil
}
