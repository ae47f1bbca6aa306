package transfer

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"iter"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
)

// Source is what an address stands for: one file of a side, or several.
type Source struct {
	Side    Side
	One     *File        // nil: all files of the side, or those that match
	pattern *api.Pattern // nil: all
	literal string       // what the pattern's names begin with that the side's do not
	address string
}

// Target is where files are copied to: a folder, or one name in it.
type Target struct {
	Side Side
	Name string // "": files have their own names
}

// files yields what the source stands for.
func (s *Source) files(ctx context.Context) iter.Seq2[File, error] {
	return func(yield func(File, error) bool) {
		if s.One != nil {
			yield(*s.One, nil)
			return
		}
		prefix, found := "", false
		if s.pattern != nil {
			prefix = strings.TrimPrefix(s.pattern.Prefix, s.literal)
		}
		for file, err := range s.Side.List(ctx, prefix) {
			if err == nil && s.pattern != nil && !s.pattern.Match(s.literal+file.Name) {
				continue
			}
			found = true
			if !yield(file, err) {
				return
			}
		}
		if !found {
			yield(File{}, fmt.Errorf("%s stands for no file; see what there is with `shardstream ls`, or the vendor's tool", s.address))
		}
	}
}

// missing is the error of a name that was written out, and that there is no file of.
func (s *Source) missing() error {
	if s.pattern == nil {
		return nil
	}
	if name, missing := s.pattern.Missing(); missing {
		return fmt.Errorf("there is no file %s", s.Side.String()+strings.TrimPrefix(name, s.literal))
	}
	return nil
}

// Access says how one side of a copy is reached, where that is not as usual.
type Access struct {
	Endpoint string // of the vendor's service, or of the cluster
	Region   string
	CA       []byte
	Insecure bool
	// Credentials are fields as the backend documents them; empty: the vendor's usual chain.
	Credentials map[string]string
}

// Opener makes sides of addresses. It holds what the process has to reach them with.
type Opener struct {
	// Cluster is a client of a cluster: of the user's own for "", else of the one at HOST:PORT or at an URL.
	Cluster func(at string) (*api.Client, error)
	// Backends opens what is not a cluster.
	Backends func(ctx context.Context, c backend.Config) (backend.Backend, error)
	// FollowLinks reads what links in local folders lead to, wherever that is.
	FollowLinks bool
	// CreateBucket makes a bucket that is copied to where there is none.
	CreateBucket bool
}

// place is an address taken apart.
type place struct {
	text   string
	scheme string // "": local
	host   string // bucket, container, HOST:PORT; of another cluster HOST:PORT/BUCKET
	key    string // what follows
	exact  bool   // nothing in it is a pattern
	query  string
}

func parsePlace(text string) (place, error) {
	p := place{text: text}
	if exact, ok := strings.CutPrefix(text, api.ExactPrefix); ok && strings.Contains(exact, "://") {
		p.exact, text = true, exact
	}
	scheme, rest, found := strings.Cut(text, "://")
	if !found || strings.ContainsAny(scheme, "/.") {
		p.key = text
		if text == "" {
			return p, refusef("an address is empty")
		}
		return p, nil
	}
	if host, _, _ := strings.Cut(rest, "/"); strings.Contains(host, "@") {
		return p, refusef("the address has credentials in it: give them by the vendor's environment variables, or its configuration files")
	}
	if scheme == backend.Remote && !strings.Contains(strings.SplitN(rest, "/", 2)[0], ":") {
		bucket, key, err := api.ParseAddress(text)
		if err != nil {
			return p, refusef("%v", err)
		}
		p.scheme, p.host, p.key = scheme, bucket, key
		return p, nil
	}
	a, err := backend.ParseAddress(text)
	if err != nil {
		return p, refusef("%v", err)
	}
	p.scheme, p.host, p.key, p.query = a.Scheme, a.Host, a.Path, a.Query
	if scheme == backend.Remote {
		bucket, key, _ := strings.Cut(a.Path, "/")
		if bucket == "" {
			return p, refusef("address %q names no bucket: write ss://HOST:PORT/BUCKET/KEY", text)
		}
		p.host, p.key = a.Host+"/"+bucket, key
	}
	return p, nil
}

// isWeb says that an address is a web server's: its path is escaped, and it can't be written to.
func (p *place) isWeb() bool { return p.scheme == backend.HTTP || p.scheme == backend.HTTPS }

// isWebList says that an address stands for the files that a web server's template or manifest names.
func (p *place) isWebList() bool { return p.isWeb() && (p.query != "" || strings.Contains(p.key, "{")) }

// isFolder says that an address is written as that of a folder.
func (p *place) isFolder() bool { return p.key == "" || strings.HasSuffix(p.key, "/") }

// wildcard is where the first character that stands for several lies, -1 where there is none.
func (p *place) wildcard() int {
	if p.exact || p.scheme == "" {
		return -1
	}
	return strings.IndexAny(p.key, "*?[{")
}

// Source finds out what an address stands for.
func (o *Opener) Source(ctx context.Context, text string, a Access) ([]*Source, error) {
	p, err := parsePlace(text)
	if err != nil {
		return nil, err
	}
	if p.scheme == "" {
		return o.localSource(ctx, text)
	}
	s := &Source{address: text}
	if p.isWebList() {
		s.Side, err = o.side(ctx, p, p.key, a)
		return []*Source{s}, err
	}
	if at := p.wildcard(); at >= 0 {
		s.literal = p.key[:strings.LastIndexByte(p.key[:at], '/')+1]
		if s.pattern, err = api.ParsePattern("ss://pattern/" + p.key); err != nil {
			return nil, refusef("%v", err)
		}
		s.Side, err = o.side(ctx, p, s.literal, a)
		return []*Source{s}, err
	}
	if p.isFolder() {
		s.Side, err = o.side(ctx, p, p.key, a)
		return []*Source{s}, err
	}
	folder, name := path.Split(p.key)
	if p.isWeb() {
		if name, err = url.PathUnescape(name); err != nil {
			return nil, refusef("%s: %v", text, err)
		}
	}
	if s.Side, err = o.side(ctx, p, folder, a); err != nil {
		return nil, err
	}
	file, err := s.Side.Stat(ctx, name)
	if err == nil {
		s.One = &file
		return []*Source{s}, nil
	}
	if backend.KindOf(err) != backend.NotFound || p.exact {
		return nil, err
	}
	// No file of this name: there may be files below it.
	_ = s.Side.Close()
	if s.Side, err = o.side(ctx, p, p.key+"/", a); err != nil {
		return nil, err
	}
	for _, err := range s.Side.List(ctx, "") {
		if p.isWeb() && backend.KindOf(err) == backend.NoBucket { // no such page: it was the file that was meant
			break
		}
		return []*Source{s}, err
	}
	return nil, fmt.Errorf("%s: there is no such file, nor any below %s", text, s.Side)
}

// localSource is a file, a folder, a pipe, or the files that match a pattern which the shell has left alone.
func (o *Opener) localSource(ctx context.Context, text string) ([]*Source, error) {
	info, err := os.Stat(text)
	if err != nil && strings.ContainsAny(text, "*?[") {
		return o.localGlob(ctx, text)
	}
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return []*Source{{Side: NewLocal(text, o.FollowLinks), address: text}}, nil
	case !info.Mode().IsRegular(): // such as <(tar c images)
		file, err := os.Open(text)
		if err != nil {
			return nil, err
		}
		return []*Source{StreamSource(text, file)}, nil
	}
	// The file was named, so a link to it is followed.
	side := NewLocal(filepath.Dir(text), true)
	file, err := side.Stat(ctx, filepath.Base(text))
	if err != nil {
		return nil, err
	}
	return []*Source{{Side: side, One: &file, address: text}}, nil
}

func (o *Opener) localGlob(ctx context.Context, text string) ([]*Source, error) {
	paths, err := filepath.Glob(text)
	if err != nil {
		return nil, refusef("pattern %q: %v", text, err)
	}
	if len(paths) == 0 {
		return nil, fmt.Errorf("%s matches no file", text)
	}
	var sources []*Source
	for _, at := range paths {
		found, err := o.localSource(ctx, at)
		if err != nil {
			return nil, err
		}
		sources = append(sources, found...)
	}
	return sources, nil
}

// StreamSource is a source that can be read once.
func StreamSource(name string, r io.Reader) *Source {
	return &Source{
		Side: &stream{reader: r}, address: name,
		One: &File{Entry: backend.Entry{Name: name, Size: -1}},
	}
}

// Target makes what files are copied to. Those of a folder go below it, one file goes below it where it is written with a
// slash at its end, or is a bucket, or a local folder that is there; otherwise that is the file's name.
func (o *Opener) Target(ctx context.Context, text string, single bool, a Access) (*Target, error) {
	p, err := parsePlace(text)
	if err != nil {
		return nil, err
	}
	if p.scheme == "" {
		info, err := os.Stat(text)
		switch {
		case err == nil && !info.IsDir() && !single:
			return nil, refusef("%s is a file: several files can't all be it", text)
		case single && !strings.HasSuffix(text, "/") && (err != nil || !info.IsDir()):
			return &Target{Side: NewLocal(filepath.Dir(text), false), Name: filepath.Base(text)}, nil
		}
		return &Target{Side: NewLocal(text, false)}, nil
	}
	folder, name := p.key, ""
	switch {
	case p.isWeb():
		return nil, refusef("%s: web servers are copied from, not to", text)
	case p.isFolder():
	case single:
		folder, name = path.Split(p.key)
	default:
		folder += "/"
	}
	side, err := o.side(ctx, p, folder, a)
	if err != nil {
		return nil, err
	}
	return &Target{Side: side, Name: name}, nil
}

// Folder makes a side of an address that stands for a folder, whether or not it is written with a slash at its end. A
// local source must be there: one that is not is more often mistyped than empty.
func (o *Opener) Folder(ctx context.Context, text string, source bool, a Access) (Side, error) {
	p, err := parsePlace(text)
	if err != nil {
		return nil, err
	}
	if p.scheme == "" {
		switch info, err := os.Stat(text); {
		case err != nil && source:
			return nil, err
		case err == nil && !info.IsDir():
			return nil, refusef("%s is a file: sync takes folders, cp takes files", text)
		}
		return NewLocal(text, o.FollowLinks), nil
	}
	if p.isWeb() && !source {
		return nil, refusef("%s: web servers are copied from, not to", text)
	}
	if p.wildcard() >= 0 && !p.isWebList() {
		return nil, refusef("%s is a pattern: sync takes folders, and --include chooses among their files", text)
	}
	folder := p.key
	if !p.isFolder() {
		folder += "/"
	}
	side, err := o.side(ctx, p, folder, a)
	if remote, ok := side.(*Remote); ok && !source {
		remote.made = p.scheme == backend.HDFS
	}
	return side, err
}

// side opens what has files below a folder, "" or ending in a slash.
func (o *Opener) side(ctx context.Context, p place, folder string, a Access) (Side, error) {
	if p.scheme == backend.Remote {
		at, bucket := "", p.host
		if host, remote, other := strings.Cut(p.host, "/"); other {
			at, bucket = host, remote
		}
		client, err := o.Cluster(cmp.Or(at, a.Endpoint))
		if err != nil {
			return nil, err
		}
		address := "ss://" + p.host
		side, err := NewCluster(ctx, client, address, bucket, folder)
		if hasCode(err, api.CodeNoBucket) && o.CreateBucket {
			if _, err := client.CreateBucket(ctx, bucket); err != nil && !hasCode(err, api.CodeExists) {
				return nil, err
			}
			side, err = NewCluster(ctx, client, address, bucket, folder)
		}
		if err != nil {
			return nil, err
		}
		return side, nil
	}
	c := backend.Config{
		Address:  backend.Address{Scheme: p.scheme, Host: p.host, Path: strings.TrimSuffix(folder, "/"), Query: p.query},
		Endpoint: a.Endpoint, Region: a.Region, CA: a.CA, Insecure: a.Insecure, Credentials: a.Credentials,
	}
	opened, err := o.Backends(ctx, c)
	if err != nil {
		return nil, err
	}
	return NewRemote(opened, c), nil
}

// CheckApart refuses to copy files onto themselves, or a folder into itself.
func CheckApart(sources []*Source, to *Target) error {
	for _, s := range sources {
		switch {
		case s.One == nil && overlap(s.Side.Sites(), to.Side.Sites()):
			return refusef("%s and %s overlap: one is the other, or within it", s.Side, to.Side)
		case s.One != nil && sameFile(s.Side.Sites(), s.One.Name, to.Side.Sites(), to.nameOf(s, *s.One)):
			return refusef("%s and %s are the same file", s.Side.String()+s.One.Name, to.Side.String()+to.nameOf(s, *s.One))
		}
	}
	return nil
}

// CheckFoldersApart is CheckApart for Sync.
func CheckFoldersApart(from, to Side) error {
	return CheckApart([]*Source{{Side: from}}, &Target{Side: to})
}

// Single says that sources stand for one file.
func Single(sources []*Source) bool {
	return len(sources) == 1 && !slices.ContainsFunc(sources, func(s *Source) bool { return s.One == nil })
}
