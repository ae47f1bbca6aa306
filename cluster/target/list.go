package target

import (
	"errors"
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/core/store"
)

// Bounds of one page of a listing.
const (
	defaultPage = 1000
	maxPage     = 10_000
)

// listCopies lists what lies on this node, sorted by name, for a gateway that goes by the same map. Gateways merge the
// targets' pages.
func (t *Target) listCopies(r *Request) error {
	l, err := t.lister(r)
	if err != nil {
		return err
	}
	limit, err := r.number("limit", defaultPage)
	if err != nil {
		return err
	}
	if l.all, err = r.flag(copies.ListAll); err != nil {
		return err
	}
	l.prefix, l.delimiter = r.Query("prefix"), r.Query("delimiter")
	page, err := l.page(r.Query("start_after"), int(min(max(limit, 1), maxPage)))
	if err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, page)
}

// lister begins a listing for a gateway, by its map.
func (t *Target) lister(r *Request) (*lister, error) {
	bucket := r.Param("bucket")
	if err := store.CheckBucket(bucket); err != nil {
		return nil, err
	}
	version, err := r.fromPeer()
	if err != nil {
		return nil, err
	}
	placer := t.Placer()
	if err := t.stale(version); err != nil {
		return nil, err
	}
	if placer.Map.Version != version {
		return nil, api.Errorf(http.StatusConflict, api.CodeStaleMap, "the cluster map has changed")
	}
	b, err := t.members.FindBucket(r.Context(), bucket)
	if err != nil {
		return nil, err
	}
	return &lister{t: t, bucket: &b.Bucket, placer: placer}, t.leased(&b.Bucket)
}

// maxNames bounds the document with the names that a gateway asks for at once.
const maxNames = 32 << 20

// statCopies describes those of the named objects that this node has something of.
func (t *Target) statCopies(r *Request) error {
	l, err := t.lister(r)
	if err != nil {
		return err
	}
	var asked api.Names
	if err := r.JSON(maxNames, &asked); err != nil {
		return err
	}
	page := copies.Page{Objects: []copies.Listed{}}
	for _, name := range asked.Names {
		info, ok, err := t.store.State(l.bucket.Name, name)
		if err != nil && !(errors.Is(err, store.ErrDiskFailed) && l.bucket.Copies() > 1) {
			return err
		}
		if ok {
			page.Objects = append(page.Objects, l.listed(&info))
		}
	}
	return r.WriteJSON(http.StatusOK, page)
}

// lister makes pages of a listing.
type lister struct {
	t                 *Target
	bucket            *api.Bucket
	placer            *api.Placer
	prefix, delimiter string
	all               bool // with deletions, and what this node is not the primary of
}

// page makes a page of at most limit entries, objects and prefixes together. With a delimiter, names that have it
// beyond the prefix are summed up up to it; a start after such a sum skips all of it.
func (l *lister) page(startAfter string, limit int) (copies.Page, error) {
	page := copies.Page{Objects: []copies.Listed{}}
	startAfter = copies.Start(l.prefix, l.delimiter, startAfter)
	last := ""
	for {
		left := limit - len(page.Objects) - len(page.Prefixes)
		infos, more, err := l.read(startAfter, left+1)
		if err != nil {
			return page, err
		}
		skipped := false
		for i := range infos {
			info := &infos[i]
			startAfter = info.Name
			if !l.all && !l.primary(info.Name) {
				continue
			}
			if len(page.Objects)+len(page.Prefixes) == limit {
				page.Next = last
				return page, nil
			}
			if sum, ok := copies.SumUp(info.Name, l.prefix, l.delimiter); ok {
				page.Prefixes = append(page.Prefixes, sum)
				last, startAfter, skipped = sum, copies.AfterPrefix(sum), true
				break // on from behind the prefix
			}
			page.Objects = append(page.Objects, l.listed(info))
			last = info.Name
		}
		if !more && !skipped {
			return page, nil
		}
	}
}

// read reads names from the index. Those of a disk that is out are known to other targets, where there are several copies.
func (l *lister) read(startAfter string, limit int) (infos []store.Info, more bool, err error) {
	read := l.t.store.List
	if l.all {
		read = l.t.store.ListAll
	}
	infos, more, err = read(l.bucket.Name, l.prefix, startAfter, limit)
	if l.all && l.bucket.Copies() > 1 && errors.Is(err, store.ErrDiskFailed) {
		err = nil
	}
	return infos, more, err
}

// primary says whether this node lists a name. All that there is one copy of is its own.
func (l *lister) primary(name string) bool {
	if l.bucket.Copies() == 1 {
		return true
	}
	n, ok := l.placer.Primary(l.bucket.Name, name, l.bucket.Copies())
	return ok && n.ID == l.t.id
}

// listed is a line of the listing.
func (l *lister) listed(info *store.Info) copies.Listed {
	line := copies.Listed{Object: objectOf(*info), Deleted: info.Kind == store.Tombstone}
	if l.bucket.Backend == nil || line.Deleted {
		return line
	}
	cached := info.Kind == store.Whole
	line.Cached = &cached
	if tag, ok := info.Meta[api.OriginTag]; ok {
		line.Origin = &tag
	}
	return line
}
