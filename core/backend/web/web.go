// Package web reads objects from web servers: http://HOST/PATH and https://HOST/PATH. What there is, is known from one of
//
//   - an index page: PATH is a directory, and the server lists it: the autoindex of nginx (HTML or JSON), that of Apache, or
//     any page whose links are the files;
//   - a manifest: PATH ends with .txt or .json, or the URL has a query; it lists names or URLs;
//   - a template: PATH has braces, {0000..0146} or {a,b}.
//
// Objects are read by ranges, where the server knows them, and never written. Their tag is the strong ETag, or else the
// time of their last change together with their size. Fields of a secret: username and password, or token (a bearer's).
package web

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/shardstream/shardstream/core/backend"
)

// Web is a place on a web server.
type Web struct {
	address backend.Address
	base    *url.URL // names are below it
	client  *http.Client
	auth    func(*http.Request)
	names   source
	noHead  atomic.Bool // the server does not know HEAD
}

// source knows the names.
type source interface {
	// list yields the files in the byte order of their names, from what begins with prefix and is greater than after.
	list(ctx context.Context, prefix, after string) iter.Seq2[file, error]
	// find is where a file of that name is; NotFound where the source knows that there is none.
	find(ctx context.Context, name string) (*url.URL, error)
}

// file is what a source knows of an object.
type file struct {
	name  string
	at    *url.URL
	guess backend.Entry // size and tag as they are likely to be; see index.guess
	sure  bool          // it was named: that it is not there is an error
}

// Open opens a place on a web server.
func Open(_ context.Context, c backend.Config) (backend.Backend, error) {
	if err := c.CheckFields("username", "password", "token"); err != nil {
		return nil, err
	}
	client, err := c.HTTPClient()
	if err != nil {
		return nil, err
	}
	client.CheckRedirect = backend.Redirect
	at, err := url.Parse(c.Address.String())
	if err != nil {
		return nil, &backend.Error{Backend: c.Address.String(), Op: "connect", Kind: backend.Unsupported, Err: errors.New("its URL does not parse")}
	}
	w := &Web{address: c.Address, client: client, auth: signer(c.Credentials)}
	switch suffix := strings.ToLower(path.Ext(at.Path)); {
	case strings.ContainsAny(at.Path, "{}"):
		w.base, w.names, err = newTemplate(w, at)
	case at.RawQuery != "", suffix == ".txt", suffix == ".json":
		w.base = at.ResolveReference(&url.URL{Path: "."})
		w.names = &manifest{web: w, at: at, turn: make(chan struct{}, 1)}
	default:
		w.base = &url.URL{Scheme: at.Scheme, Host: at.Host, Path: "/" + strings.TrimSuffix(strings.TrimPrefix(at.Path, "/"), "/") + "/"}
		if w.base.Path == "//" {
			w.base.Path = "/"
		}
		w.names = &index{web: w}
	}
	if err != nil {
		return nil, w.fail("connect", "", backend.Unsupported, err)
	}
	return w, nil
}

// signer adds credentials to a request.
func signer(fields map[string]string) func(*http.Request) {
	switch {
	case fields["token"] != "":
		return func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+fields["token"]) }
	case fields["username"] != "" || fields["password"] != "":
		return func(r *http.Request) { r.SetBasicAuth(fields["username"], fields["password"]) }
	}
	return func(*http.Request) {}
}

func (w *Web) fail(op, name string, kind backend.Kind, err error) *backend.Error {
	return &backend.Error{Backend: w.address.String(), Op: op, Name: name, Kind: kind, Err: err}
}

// broken is the error of a request without an answer, or of a body.
func (w *Web) broken(ctx context.Context, op, name string, err error) error {
	var own *backend.Error
	if errors.As(err, &own) && own.Op == op {
		return own
	}
	var header tls.RecordHeaderError
	if errors.As(err, &header) {
		return w.fail(op, name, backend.Failed, errors.New("it does not speak TLS; write http://"))
	}
	kind, err := backend.Broken(ctx, err)
	return w.fail(op, name, kind, err)
}

// refused is the error that an answer is.
func (w *Web) refused(op, name string, r *http.Response) *backend.Error {
	e := w.fail(op, name, backend.KindOfStatus(r.StatusCode), nil)
	e.Status, e.After = r.StatusCode, backend.RetryAfter(r.Header)
	return e
}

// request makes a request. Credentials are for the server that they were given for alone.
func (w *Web) request(ctx context.Context, method string, at *url.URL, header http.Header) (*http.Response, error) {
	r, err := http.NewRequestWithContext(ctx, method, at.String(), http.NoBody)
	if err != nil {
		return nil, err
	}
	for name, values := range header {
		r.Header[name] = values
	}
	r.Header.Set("Accept-Encoding", "identity") // ranges are of what is stored
	if at.Scheme == w.base.Scheme && at.Host == w.base.Host {
		w.auth(r)
	}
	return w.client.Do(r)
}

// below is the URL of a name.
func (w *Web) below(name string) *url.URL {
	return &url.URL{Scheme: w.base.Scheme, Host: w.base.Host, Path: w.base.Path + name}
}

// plain tells a name that stays below the base however a server cleans paths.
func plain(name string) bool {
	return name != "" && !slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool {
		return part == "" || part == "." || part == ".."
	})
}

// maxPage bounds an index page and a manifest.
const maxPage = 64 << 20

// page is a document as it was read.
type page struct {
	document []byte
	kind     string   // its content type
	at       *url.URL // after redirects
}

// read reads a document.
func (w *Web) read(ctx context.Context, at *url.URL) (page, error) {
	r, err := w.request(ctx, http.MethodGet, at, nil)
	if err != nil {
		return page{}, w.broken(ctx, "list", "", err)
	}
	defer func() { _ = r.Body.Close() }()
	if r.StatusCode != http.StatusOK {
		failed := w.refused("list", "", r)
		failed.Err = fmt.Errorf("GET %s", at.Path)
		return page{}, failed
	}
	document, err := io.ReadAll(io.LimitReader(r.Body, maxPage+1))
	switch {
	case err != nil:
		return page{}, w.broken(ctx, "list", "", err)
	case r.ContentLength >= 0 && int64(len(document)) != min(r.ContentLength, maxPage+1):
		return page{}, w.fail("list", "", backend.Passing, io.ErrUnexpectedEOF)
	case len(document) > maxPage:
		return page{}, w.fail("list", "", backend.Unsupported, fmt.Errorf("%s has more than %d MiB", at.Path, maxPage>>20))
	}
	return page{document, r.Header.Get("Content-Type"), r.Request.URL}, nil
}

// Put is not supported.
func (w *Web) Put(_ context.Context, name string, _ io.ReadSeeker, _ int64, _ backend.PutOptions) (backend.Entry, error) {
	return backend.Entry{}, w.fail("put", name, backend.Unsupported, errors.New("web servers are only read"))
}

// Delete is not supported.
func (w *Web) Delete(_ context.Context, name string) error {
	return w.fail("delete", name, backend.Unsupported, errors.New("web servers are only read"))
}

// Close implements backend.Backend.
func (w *Web) Close() error {
	w.client.CloseIdleConnections()
	return nil
}
