package azure

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"slices"
	"strings"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	"github.com/shardstream/shardstream/core/backend"
)

// errFolders ends a listing of an account with a hierarchical namespace: it has to be taken in another way.
var errFolders = errors.New("the account has a hierarchical namespace")

// errEnough ends a listing whose reader has what it wants.
var errEnough = errors.New("enough")

// List takes the service's own order, which is that of names, except where an account has a hierarchical namespace:
// there a folder's names come together ("a/b" in front of "a-b"), so each folder is listed, one request at least,
// and sorted.
//
// "From a name on" is a request of newer versions of the service. Others ignore it, and then all names before it are
// listed too, 5,000 a request.
func (b *bucket) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	l := &lister{bucket: b, prefix: b.key(prefix)}
	if after != "" {
		l.after = b.key(after)
	}
	return backend.Listing(ctx, b.Address, func(yield func(backend.Entry, error) bool) {
		l.yield = yield
		if l.after > l.prefix && !strings.HasPrefix(l.after, l.prefix) {
			return // all that begins so is before it
		}
		err := l.flat(ctx)
		if errors.Is(err, errFolders) {
			err = l.folder(ctx, l.prefix)
		}
		if err != nil && !errors.Is(err, errEnough) {
			yield(backend.Entry{}, b.fail(ctx, "list", "", err))
		}
	})
}

type lister struct {
	*bucket
	prefix, after string // of keys
	yield         func(backend.Entry, error) bool
}

// from is where the service may begin, within a prefix.
func (l *lister) from(prefix string) *string {
	if l.after > prefix && strings.HasPrefix(l.after, prefix) {
		return &l.after
	}
	return nil
}

func (l *lister) flat(ctx context.Context) error {
	pager := l.container.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: &l.prefix, StartFrom: l.from(l.prefix)})
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return err
		}
		if page.Segment == nil {
			if page.ContainerName == nil && page.ServiceEndpoint == nil {
				return l.NoListing()
			}
			continue
		}
		for _, item := range page.Segment.BlobItems {
			if item.Properties != nil && item.Properties.ResourceType != nil {
				return errFolders
			}
			if err := l.give(item); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *lister) give(item *container.BlobItem) error {
	e := backend.Entry{Name: orZero(item.Name)}
	if p := item.Properties; p != nil {
		e.Size, e.Modified, e.Tag = orZero(p.ContentLength), orZero(p.LastModified), tag(p.ETag)
		e.ContentType, e.Sums.MD5 = orZero(p.ContentType), md5(p.ContentMD5)
	}
	if l.after != "" && e.Name <= l.after {
		return nil
	}
	if !l.yield(e, nil) {
		return errEnough
	}
	return nil
}

// child is a blob, or a folder, whose name ends with a slash.
type child struct {
	name string
	blob *container.BlobItem
}

// folder lists what is below a prefix, folder by folder, in the order of names.
func (l *lister) folder(ctx context.Context, prefix string) error {
	children, err := l.children(ctx, prefix)
	if err != nil {
		return err
	}
	for _, c := range children {
		switch {
		case c.blob != nil:
			err = l.give(c.blob)
		case c.name < l.after && !strings.HasPrefix(l.after, c.name):
			// All of it is before what is asked for.
		default:
			err = l.folder(ctx, c.name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (l *lister) children(ctx context.Context, prefix string) ([]child, error) {
	var found []child
	pager := l.container.NewListBlobsHierarchyPager("/", &container.ListBlobsHierarchyOptions{Prefix: &prefix})
	for pager.More() {
		page, err := pager.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		if page.Segment == nil {
			if page.ContainerName == nil && page.ServiceEndpoint == nil {
				return nil, l.NoListing()
			}
			continue
		}
		for _, p := range page.Segment.BlobPrefixes {
			found = append(found, child{name: orZero(p.Name)})
		}
		for _, item := range page.Segment.BlobItems {
			if item.Properties != nil && orZero(item.Properties.ResourceType) == "directory" {
				continue
			}
			found = append(found, child{name: orZero(item.Name), blob: item})
		}
	}
	slices.SortFunc(found, func(a, b child) int { return cmp.Compare(a.name, b.name) })
	return found, nil
}
