package api

import (
	"fmt"
	"path"
	"strconv"
	"strings"
)

const (
	scheme = "ss://"
	// maxPatterns bounds what braces expand to; globs stand for more at no cost.
	maxPatterns = 100_000
	// maxGlobs bounds the globs that braces expand to: each is tried on every key of a listing.
	maxGlobs = 1_000
	// maxPattern bounds the address, maxDepth its nested braces, and maxKey each name that it stands for.
	maxPattern = 64 << 10
	maxDepth   = 8
	maxKey     = 1024
	globMeta   = `*?[`
)

// Pattern is an address that may stand for several objects, with its braces expanded. It notes which of
// the names that were written out have been matched, so it serves one listing by one goroutine.
type Pattern struct {
	Address string // as the user wrote it
	Bucket  string
	Prefix  string // every match begins with it: what to list
	// names are the keys that a brace list without globs stands for, each of which must exist.
	names map[string]bool
	list  []string // names, in order
	globs []string // patterns of path.Match, tried on the whole key
	tree  bool     // everything below prefix
}

// ParsePattern understands ss://bucket/key, ss://bucket/prefix/, braces ({0000..0146}, {a,b}) and globs
// (*, ?, [a-z]; none crosses a slash). An address behind ExactPrefix stands for itself alone.
func ParsePattern(address string) (*Pattern, error) {
	if exact, ok := strings.CutPrefix(address, ExactPrefix); ok {
		return exactPattern(address, exact)
	}
	rest, ok := strings.CutPrefix(address, scheme)
	if !ok {
		return nil, Errorf(400, CodeBadRequest, "%.200q is not an address such as ss://bucket/train-*.tar", address)
	}
	if len(address) > maxPattern {
		return nil, Errorf(400, CodeBadRequest, "address %.200q... has %d bytes, at most %d are possible; use a glob, or several addresses", address, len(address), maxPattern)
	}
	bucket, key, _ := strings.Cut(rest, "/")
	if bucket == "" || strings.ContainsAny(bucket, globMeta+"{}") {
		return nil, Errorf(400, CodeBadRequest, "address %.200q names no bucket; patterns are for keys only", address)
	}
	p := &Pattern{Address: address, Bucket: bucket}
	if key == "" || strings.HasSuffix(key, "/") && !strings.ContainsAny(key, globMeta+"{}") {
		p.Prefix, p.tree = key, true
		return p, nil
	}
	keys, err := expandBraces(key, maxPatterns, maxDepth)
	if err != nil {
		return nil, Errorf(400, CodeBadRequest, "address %.200q: %v", address, err)
	}
	p.Prefix = literalPrefix(keys[0])
	for _, k := range keys {
		p.Prefix = commonPrefix(p.Prefix, literalPrefix(k))
		if !strings.ContainsAny(k, globMeta) {
			if p.names == nil {
				p.names = make(map[string]bool, len(keys))
			}
			p.names[k] = false
			p.list = append(p.list, k)
			continue
		}
		if _, err := path.Match(k, ""); err != nil {
			return nil, Errorf(400, CodeBadRequest, "address %.200q: bad pattern (a bracket is not closed)", address)
		}
		p.globs = append(p.globs, k)
	}
	if len(p.globs) > maxGlobs {
		return nil, Errorf(400, CodeBadRequest, "address %.200q: its braces stand for %d globs, at most %d are possible; use fewer braces beside * and ?", address, len(p.globs), maxGlobs)
	}
	return p, nil
}

// PrefixPattern stands for all keys that begin with a prefix, whatever letters it has.
func PrefixPattern(bucket, prefix string) *Pattern {
	return &Pattern{Address: Address(bucket, prefix), Bucket: bucket, Prefix: prefix, tree: true}
}

func exactPattern(address, exact string) (*Pattern, error) {
	bucket, key, err := ParseAddress(exact)
	if err != nil || key == "" || strings.HasSuffix(key, "/") || len(key) > maxKey {
		return nil, Errorf(400, CodeBadRequest, "%.200q is not %s before the address of an object, ss://bucket/key", address, ExactPrefix)
	}
	return &Pattern{Address: address, Bucket: bucket, Prefix: key, names: map[string]bool{key: false}, list: []string{key}}, nil
}

// Name is the key of the one object that the pattern stands for, where it is written out.
func (p *Pattern) Name() (key string, ok bool) {
	if len(p.list) != 1 || len(p.globs) > 0 {
		return "", false
	}
	return p.list[0], true
}

// Tree says that the pattern stands for everything below its prefix.
func (p *Pattern) Tree() bool { return p.tree }

// Match says whether a key belongs to the pattern, and notes that a name was found.
func (p *Pattern) Match(key string) bool {
	if _, ok := p.names[key]; ok {
		p.names[key] = true
	}
	return p.Covers(key)
}

// Covers says whether a key belongs to the pattern. It notes nothing, so any number of goroutines may ask.
func (p *Pattern) Covers(key string) bool {
	if p.tree {
		return strings.HasPrefix(key, p.Prefix)
	}
	if _, ok := p.names[key]; ok {
		return true
	}
	for _, g := range p.globs {
		if ok, err := path.Match(g, key); ok && err == nil {
			return true
		}
	}
	return false
}

// Missing is a name that was written out and that no key has matched.
func (p *Pattern) Missing() (string, bool) {
	for _, n := range p.list {
		if !p.names[n] {
			return n, true
		}
	}
	return "", false
}

// Exact says that the key was written out, not matched by a pattern.
func (p *Pattern) Exact(key string) bool {
	_, ok := p.names[key]
	return ok
}

func literalPrefix(pattern string) string {
	if i := strings.IndexAny(pattern, globMeta); i >= 0 {
		return pattern[:i]
	}
	return pattern
}

func commonPrefix(a, b string) string {
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return a[:n]
}

// expandBraces expands the first brace group and recurses on the rest, as a shell does.
func expandBraces(pattern string, limit, depth int) ([]string, error) {
	open := strings.IndexByte(pattern, '{')
	if open < 0 {
		if strings.IndexByte(pattern, '}') >= 0 {
			return nil, fmt.Errorf("a } without its {")
		}
		return []string{pattern}, nil
	}
	if depth == 0 {
		return nil, fmt.Errorf("the braces are nested more than %d deep", maxDepth)
	}
	end := closingBrace(pattern, open)
	if end < 0 {
		return nil, fmt.Errorf("a { is not closed")
	}
	choices, err := alternatives(pattern[open+1:end], limit, depth-1)
	if err != nil {
		return nil, err
	}
	tails, err := expandBraces(pattern[end+1:], limit, depth)
	if err != nil {
		return nil, err
	}
	if len(choices) > limit/len(tails) {
		return nil, fmt.Errorf("the braces stand for more than %d names", limit)
	}
	out := make([]string, 0, len(choices)*len(tails))
	for _, c := range choices {
		for _, t := range tails {
			if n := open + len(c) + len(t); n > maxKey {
				return nil, fmt.Errorf("the braces stand for a name of %d bytes, keys have at most %d", n, maxKey)
			}
			out = append(out, pattern[:open]+c+t)
		}
	}
	return out, nil
}

func closingBrace(s string, open int) int {
	depth := 0
	for i := open; i < len(s); i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			if depth--; depth == 0 {
				return i
			}
		}
	}
	return -1
}

// alternatives expands what stands between two braces: a number range or a comma list.
func alternatives(body string, limit, depth int) ([]string, error) {
	if from, to, ok := strings.Cut(body, ".."); ok && !strings.ContainsAny(body, ",{") {
		return numberRange(from, to, limit)
	}
	var out []string
	for _, part := range splitTop(body) {
		expanded, err := expandBraces(part, limit, depth)
		if err != nil {
			return nil, err
		}
		if out = append(out, expanded...); len(out) > limit {
			return nil, fmt.Errorf("the braces stand for more than %d names", limit)
		}
	}
	if len(out) < 2 {
		return nil, fmt.Errorf("{%.40s} is neither a range such as {0000..0146} nor a list such as {a,b}", body)
	}
	return out, nil
}

func numberRange(from, to string, limit int) ([]string, error) {
	a, errA := strconv.ParseUint(from, 10, 63)
	b, errB := strconv.ParseUint(to, 10, 63)
	if errA != nil || errB != nil {
		return nil, fmt.Errorf("{%.20s..%.20s} is not a range of numbers", from, to)
	}
	if len(from) > maxKey {
		return nil, fmt.Errorf("{%.20s...} has a number of %d digits, keys have at most %d bytes", from, len(from), maxKey)
	}
	if b < a {
		return nil, fmt.Errorf("{%.20s..%.20s} runs backwards", from, to)
	}
	if b-a >= uint64(limit) {
		return nil, fmt.Errorf("{%.20s..%.20s} stands for more than %d names", from, to, limit)
	}
	out := make([]string, 0, b-a+1)
	for v := a; v <= b; v++ {
		out = append(out, fmt.Sprintf("%0*d", len(from), v))
	}
	return out, nil
}

// splitTop splits at the commas outside inner braces.
func splitTop(s string) []string {
	var out []string
	depth, start := 0, 0
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '{':
			depth++
		case '}':
			depth--
		case ',':
			if depth == 0 {
				out = append(out, s[start:i])
				start = i + 1
			}
		}
	}
	return append(out, s[start:])
}
