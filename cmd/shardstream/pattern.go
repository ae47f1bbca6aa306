package main

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
)

// maxExpansion bounds the names that the braces of one address stand for.
const maxExpansion = 100_000

// find lists the objects that an address stands for: one object, all below ss://bucket/prefix/, or
// those that match a pattern with braces and wildcards. Naming nothing is an error.
func find(ctx context.Context, client *api.Client, address string) ([]api.Object, error) {
	if _, _, err := api.ParseAddress(address); err != nil {
		return nil, &usageError{err.Error()}
	}
	names, err := expandBraces(address)
	if err != nil {
		return nil, err
	}
	var found []api.Object
	for _, name := range names {
		bucket, key, err := api.ParseAddress(name)
		if err != nil {
			return nil, &usageError{err.Error()}
		}
		objects, err := findOne(ctx, client, bucket, key)
		if err != nil {
			return nil, err
		}
		found = append(found, objects...)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s matches no object; `shardstream ls` shows what there is", address)
	}
	return found, nil
}

func findOne(ctx context.Context, client *api.Client, bucket, key string) ([]api.Object, error) {
	prefix, pattern := key, ""
	if i := strings.IndexAny(key, "*?["); i >= 0 {
		prefix, pattern = key[:i], key
		if _, err := path.Match(pattern, ""); err != nil {
			return nil, usagef("pattern %q: %v", pattern, err)
		}
	} else if key != "" && !strings.HasSuffix(key, "/") {
		object, err := client.StatObject(ctx, bucket, key)
		return []api.Object{object}, err
	}
	var found []api.Object
	for object, err := range client.Objects(ctx, bucket, api.ListOptions{Prefix: prefix}) {
		if err != nil {
			return nil, err
		}
		if pattern != "" {
			if ok, err := path.Match(pattern, object.Name); err != nil || !ok {
				continue
			}
		}
		found = append(found, object)
	}
	return found, nil
}

// expandBraces expands {a,b} and {000..123}, each combination once, in order.
func expandBraces(s string) ([]string, error) {
	open := strings.IndexByte(s, '{')
	if open < 0 {
		return []string{s}, nil
	}
	length := strings.IndexByte(s[open:], '}')
	if length < 0 {
		return nil, usagef("address %q has a { without a }", s)
	}
	choices, err := braceChoices(s[open+1 : open+length])
	if err != nil {
		return nil, err
	}
	rest, err := expandBraces(s[open+length+1:])
	if err != nil {
		return nil, err
	}
	if len(choices)*len(rest) > maxExpansion {
		return nil, usagef("address %q stands for more than %d names", s, maxExpansion)
	}
	expanded := make([]string, 0, len(choices)*len(rest))
	for _, choice := range choices {
		for _, tail := range rest {
			expanded = append(expanded, s[:open]+choice+tail)
		}
	}
	return expanded, nil
}

func braceChoices(inside string) ([]string, error) {
	from, to, isRange := strings.Cut(inside, "..")
	if !isRange {
		return strings.Split(inside, ","), nil
	}
	first, err1 := strconv.Atoi(from)
	last, err2 := strconv.Atoi(to)
	if err := errors.Join(err1, err2); err != nil || first < 0 || last < first || last-first >= maxExpansion {
		return nil, usagef("{%s} is no range of at most %d numbers, such as {0000..0146}", inside, maxExpansion)
	}
	choices := make([]string, 0, last-first+1)
	for n := first; n <= last; n++ {
		choices = append(choices, fmt.Sprintf("%0*d", len(from), n))
	}
	return choices, nil
}

// isPattern tells whether a key stands for several.
func isPattern(key string) bool { return strings.ContainsAny(key, "*?[{") }
