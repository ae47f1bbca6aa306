package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/shardstream/shardstream/core/backend"
)

// maxNames bounds what a manifest or a template names.
const maxNames = 1_000_000

// named are files that somebody has named.
type named struct {
	at     map[string]*url.URL
	sorted []string
}

func (n *named) list(prefix, after string, yield func(file, error) bool) {
	from, _ := slices.BinarySearch(n.sorted, max(prefix, after))
	for _, name := range n.sorted[from:] {
		if !strings.HasPrefix(name, prefix) {
			return
		}
		if name > after && !yield(file{name: name, at: n.at[name], sure: true}, nil) {
			return
		}
	}
}

func (n *named) find(w *Web, name string) (*url.URL, error) {
	if at := n.at[name]; at != nil {
		return at, nil
	}
	return nil, w.fail("stat", name, backend.NotFound, nil)
}

// add adds a file, and refuses one of a name that leads elsewhere already.
func (n *named) add(name string, at *url.URL) error {
	switch known := n.at[name]; {
	case !plain(name):
		return fmt.Errorf("it names %.200q, which can't be the name of an object", name)
	case known != nil && known.String() != at.String():
		return fmt.Errorf("it has two files of the name %.200q", name)
	case known == nil && len(n.sorted) >= maxNames:
		return fmt.Errorf("it names more than %d files", maxNames)
	case known == nil:
		n.at[name] = at
		n.sorted = append(n.sorted, name)
	}
	return nil
}

// template knows the files that braces stand for. Their names are what comes behind the last slash before the first brace.
type template struct {
	web *Web
	named
}

func newTemplate(w *Web, at *url.URL) (*url.URL, *template, error) {
	cut := strings.LastIndexByte(at.Path[:strings.IndexAny(at.Path, "{}")], '/') + 1
	base := &url.URL{Scheme: at.Scheme, Host: at.Host, Path: at.Path[:cut]}
	if at.RawQuery != "" {
		return nil, nil, errors.New("a template has no query")
	}
	names, err := expand(at.Path[cut:])
	if err != nil {
		return nil, nil, err
	}
	t := &template{web: w, named: named{at: make(map[string]*url.URL, len(names))}}
	for _, name := range names {
		if err := t.add(name, &url.URL{Scheme: base.Scheme, Host: base.Host, Path: base.Path + name}); err != nil {
			return nil, nil, err
		}
	}
	slices.Sort(t.sorted)
	return base, t, nil
}

func (t *template) list(_ context.Context, prefix, after string) iter.Seq2[file, error] {
	return func(yield func(file, error) bool) { t.named.list(prefix, after, yield) }
}

func (t *template) find(_ context.Context, name string) (*url.URL, error) {
	return t.named.find(t.web, name)
}

// manifestFor is how long a manifest is taken for what it was when a name is looked up in it.
const manifestFor = 10 * time.Second

// manifest knows the files that a document lists. What is in the directory of the document, or below it, has its path
// from there as its name; what is elsewhere has HOST/PATH.
type manifest struct {
	web  *Web
	at   *url.URL
	turn chan struct{} // held while it is read: many who look for names read it once

	mu   sync.Mutex
	last *named
	read time.Time
}

// fetch reads the document, unless it is as fresh as it has to be.
func (m *manifest) fetch(ctx context.Context, age time.Duration) (*named, error) {
	asked := time.Now()
	if known := m.known(asked.Add(-age)); known != nil {
		return known, nil
	}
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, m.web.broken(ctx, "list", "", context.Cause(ctx))
	}
	if known := m.known(asked.Add(-age)); known != nil { // another has read it meanwhile
		return known, nil
	}
	began := time.Now()
	p, err := m.web.read(ctx, m.at)
	if failed, ok := err.(*backend.Error); ok && failed.Kind == backend.NotFound { //nolint:errorlint // made here
		failed.Kind = backend.NoBucket
	}
	if err != nil {
		return nil, err
	}
	names, err := m.parse(p.document)
	if err != nil {
		return nil, m.web.fail("list", "", backend.Unsupported, fmt.Errorf("its manifest: %w", err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last, m.read = names, began
	return names, nil
}

// known is what the document was when it was read after that time; nil: it was not.
func (m *manifest) known(after time.Time) *named {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last == nil || !m.read.After(after) {
		return nil
	}
	return m.last
}

func (m *manifest) list(ctx context.Context, prefix, after string) iter.Seq2[file, error] {
	return func(yield func(file, error) bool) {
		age := time.Duration(0)
		if after != "" { // a page of a listing that has begun
			age = manifestFor
		}
		names, err := m.fetch(ctx, age)
		if err != nil {
			yield(file{}, err)
			return
		}
		names.list(prefix, after, yield)
	}
}

func (m *manifest) find(ctx context.Context, name string) (*url.URL, error) {
	names, err := m.fetch(ctx, manifestFor)
	if err != nil {
		return nil, err
	}
	return names.find(m.web, name)
}

func (m *manifest) parse(document []byte) (*named, error) {
	lines, err := listed(document)
	if err != nil {
		return nil, err
	}
	names := &named{at: make(map[string]*url.URL, len(lines))}
	for _, line := range lines {
		at, err := m.at.Parse(line)
		if err == nil && at.User != nil {
			return nil, errors.New("a URL has credentials in it; put them into a secret")
		}
		if err != nil || at.Scheme != backend.HTTP && at.Scheme != backend.HTTPS || at.Host == "" {
			return nil, fmt.Errorf("%.200q is neither a name nor the URL of a file on a web server", line)
		}
		if err := names.add(m.name(at), at); err != nil {
			return nil, err
		}
	}
	slices.Sort(names.sorted)
	return names, nil
}

func (m *manifest) name(at *url.URL) string {
	if at.Scheme == m.at.Scheme && at.Host == m.at.Host {
		if name, below := strings.CutPrefix(at.Path, m.web.base.Path); below && name != "" {
			return name
		}
	}
	return at.Hostname() + at.Path
}

// listed are the references of a manifest: lines, or JSON: an array of them or of objects that have one, or such an array
// as a field of an object, as WebDataset's lists of shards have it.
func listed(document []byte) ([]string, error) {
	document = bytes.TrimPrefix(bytes.TrimSpace(document), []byte("\xef\xbb\xbf"))
	if bytes.HasPrefix(document, []byte("[")) || bytes.HasPrefix(document, []byte("{")) {
		return fromJSONManifest(document)
	}
	if bytes.HasPrefix(document, []byte("<")) {
		return nil, errors.New("it is a web page or XML, not a list of names; the URL of a folder's index page ends in / and has no query")
	}
	var lines []string
	scanner := bufio.NewScanner(bytes.NewReader(document))
	for scanner.Scan() {
		if line := strings.TrimSpace(scanner.Text()); line != "" && !strings.HasPrefix(line, "#") {
			lines = append(lines, escaped(line))
		}
	}
	return lines, scanner.Err()
}

// Fields of manifests.
var (
	listFields = []string{"shardlist", "shards", "files", "urls"}
	nameFields = []string{"url", "name", "path", "file"}
)

func fromJSONManifest(document []byte) ([]string, error) {
	if document[0] == '{' {
		var fields map[string]json.RawMessage
		if err := json.Unmarshal(document, &fields); err != nil {
			return nil, fmt.Errorf("it does not parse: %w", err)
		}
		for _, field := range listFields {
			if list := bytes.TrimSpace(fields[field]); bytes.HasPrefix(list, []byte("[")) {
				return fromJSONManifest(list)
			}
		}
		return nil, fmt.Errorf("it has none of the fields %s", strings.Join(listFields, ", "))
	}
	var items []json.RawMessage
	if err := json.Unmarshal(document, &items); err != nil {
		return nil, fmt.Errorf("it does not parse: %w", err)
	}
	lines := make([]string, len(items))
	for i, item := range items {
		if json.Unmarshal(item, &lines[i]) == nil {
			lines[i] = escaped(lines[i])
			continue
		}
		var fields map[string]any
		_ = json.Unmarshal(item, &fields) // what is no object has no fields
		for _, field := range nameFields {
			if text, ok := fields[field].(string); ok {
				lines[i] = escaped(text)
				break
			}
		}
		if lines[i] == "" {
			return nil, fmt.Errorf("its entry %d is neither a name nor an object with one of %s", i, strings.Join(nameFields, ", "))
		}
	}
	return lines, nil
}

// escaped makes a reference of a name; URLs are such already.
func escaped(line string) string {
	if strings.Contains(line, "://") || strings.HasPrefix(line, "//") {
		return line
	}
	return "./" + strings.TrimPrefix((&url.URL{Path: "/" + strings.TrimPrefix(line, "./")}).EscapedPath(), "/")
}
