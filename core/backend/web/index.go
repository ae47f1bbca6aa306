package web

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/html"

	"github.com/shardstream/shardstream/core/backend"
)

// Bounds of what is looked through for a listing.
const (
	maxPages = 10_000
	maxDepth = 32
)

// index knows the files that pages of a server list.
type index struct{ web *Web }

func (x *index) find(_ context.Context, name string) (*url.URL, error) { return x.web.below(name), nil }

func (x *index) list(ctx context.Context, prefix, after string) iter.Seq2[file, error] {
	return func(yield func(file, error) bool) {
		start := prefix[:strings.LastIndexByte(prefix, '/')+1]
		if start != "" && !plain(strings.TrimSuffix(start, "/")) {
			return
		}
		w := &walk{index: x, prefix: prefix, after: after, yield: yield}
		err := w.directory(ctx, start, 0)
		if start != "" && backend.KindOf(err) == backend.NotFound {
			// There is no such directory; if that is so of all, it is no listing that is empty.
			_, err = x.read(ctx, "")
		}
		if err != nil && !w.done {
			if failed, ok := err.(*backend.Error); ok && failed.Kind == backend.NotFound { //nolint:errorlint // made here
				failed.Kind = backend.NoBucket
			}
			yield(file{}, err)
		}
	}
}

// walk goes through a tree of pages in the byte order of whole names.
type walk struct {
	*index
	prefix, after string
	yield         func(file, error) bool
	pages         int
	done          bool // nobody wants more
}

func (w *walk) directory(ctx context.Context, dir string, depth int) error {
	if w.pages++; w.pages > maxPages || depth > maxDepth {
		return w.web.fail("list", dir, backend.Unsupported,
			fmt.Errorf("its index goes over more than %d pages, or %d levels; list less of it, by a manifest or a template", maxPages, maxDepth))
	}
	links, err := w.read(ctx, dir)
	if err != nil {
		return err
	}
	sure := false
	for _, l := range links {
		name := dir + l.name
		if strings.HasSuffix(name, "/") {
			begun := strings.HasPrefix(name, w.prefix) || strings.HasPrefix(w.prefix, name)
			if begun && (name > w.after || strings.HasPrefix(w.after, name)) {
				err := w.directory(ctx, name, depth+1)
				if backend.KindOf(err) == backend.NotFound && err != nil {
					err = nil // removed since the page was made
				}
				if err != nil || w.done {
					return err
				}
			}
			continue
		}
		if name <= w.after || !strings.HasPrefix(name, w.prefix) {
			continue
		}
		f := file{name: name, at: w.web.below(name), guess: l.guess}
		f.guess.Name = name
		if f.guess.Tag != "" && !sure {
			// Whether the server makes tags as nginx does is seen by the first.
			e, err := w.web.stat(ctx, name, f.at)
			if sure = err == nil && e.Tag == f.guess.Tag && e.Size == f.guess.Size; !sure {
				for i := range links {
					links[i].guess = backend.Entry{}
				}
				f.guess = backend.Entry{}
			}
		}
		if !w.yield(f, nil) {
			w.done = true
			return nil
		}
	}
	return nil
}

// link is an entry of a page: a directory's name ends with a slash.
type link struct {
	name  string
	guess backend.Entry
}

// read reads the page of a directory, sorted so that what is below a directory comes where its name is.
func (x *index) read(ctx context.Context, dir string) ([]link, error) {
	at := x.web.below(dir)
	p, err := x.web.read(ctx, at)
	if err != nil {
		return nil, err
	}
	var links []link
	if strings.HasPrefix(p.kind, "application/json") {
		if links, err = fromJSON(p.document); err != nil {
			return nil, x.web.fail("list", dir, backend.Unsupported, err)
		}
	} else {
		links = fromHTML(p.document, p.at)
	}
	slices.SortFunc(links, func(a, b link) int { return cmp.Compare(a.name, b.name) })
	return slices.CompactFunc(links, func(a, b link) bool { return a.name == b.name }), nil
}

// fromJSON reads the autoindex of nginx in its format json.
func fromJSON(document []byte) ([]link, error) {
	var entries []struct {
		Name  string `json:"name"`
		Type  string `json:"type"`
		MTime string `json:"mtime"`
		Size  *int64 `json:"size"`
	}
	if err := json.Unmarshal(document, &entries); err != nil {
		return nil, fmt.Errorf("its index is JSON, but not as nginx makes it: %w", err)
	}
	links := make([]link, 0, len(entries))
	for _, e := range entries {
		if !plain(e.Name) || strings.Contains(e.Name, "/") {
			continue
		}
		switch e.Type {
		case "directory":
			links = append(links, link{name: e.Name + "/"})
		case "file":
			l := link{name: e.Name}
			if at, err := time.Parse(http.TimeFormat, e.MTime); err == nil && e.Size != nil {
				l.guess = backend.Entry{Size: *e.Size, Modified: at, Tag: fmt.Sprintf(`"%x-%x"`, at.Unix(), *e.Size)}
			}
			links = append(links, l)
		}
	}
	return links, nil
}

// fromHTML takes the links of a page that lead to what is directly below it.
func fromHTML(document []byte, page *url.URL) []link {
	var links []link
	tokens := html.NewTokenizer(bytes.NewReader(document))
	for kind := tokens.Next(); kind != html.ErrorToken; kind = tokens.Next() {
		if kind != html.StartTagToken {
			continue
		}
		if tag, more := tokens.TagName(); string(tag) != "a" || !more {
			continue
		}
		for more := true; more; {
			var key, value []byte
			key, value, more = tokens.TagAttr()
			if string(key) != "href" {
				continue
			}
			if name := linked(string(value), page); name != "" {
				links = append(links, link{name: name})
			}
		}
	}
	return links
}

// linked is the name that a link leads to; "" where that is not directly below the page.
func linked(href string, page *url.URL) string {
	to, err := page.Parse(strings.TrimSpace(href))
	if err != nil || to.Scheme != page.Scheme || to.Host != page.Host || to.RawQuery != "" || to.ForceQuery {
		return ""
	}
	dir := page.Path[:strings.LastIndexByte(page.Path, '/')+1]
	name, below := strings.CutPrefix(to.Path, dir)
	if bare := strings.TrimSuffix(name, "/"); !below || !plain(bare) || strings.Contains(bare, "/") {
		return ""
	}
	return name
}
