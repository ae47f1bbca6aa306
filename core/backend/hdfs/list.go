package hdfs

import (
	"cmp"
	"context"
	"errors"
	"iter"
	"os"
	"slices"
	"strings"

	"github.com/shardstream/shardstream/core/backend"
)

// List implements backend.Backend. It goes through directories in the byte order of whole names.
func (f *Files) List(ctx context.Context, prefix, after string) iter.Seq2[backend.Entry, error] {
	return func(yield func(backend.Entry, error) bool) {
		w := &walk{Files: f, prefix: prefix, after: after, yield: yield}
		err := w.directory(ctx, prefix[:strings.LastIndexByte(prefix, '/')+1])
		if absent(err) { // no name has that prefix, unless all of it is away
			err = nil
			if _, gone := f.read(ctx, ""); gone != nil {
				err = gone
			}
			if absent(err) {
				err = f.fail("list", "", backend.NoBucket, errors.New("there is no such directory"))
			}
		}
		if err != nil {
			yield(backend.Entry{}, err)
		}
	}
}

func absent(err error) bool { return err != nil && backend.KindOf(err) == backend.NotFound }

type walk struct {
	*Files
	prefix, after string
	yield         func(backend.Entry, error) bool
	done          bool // nobody wants more
}

func (w *walk) directory(ctx context.Context, dir string) error {
	children, err := w.read(ctx, dir)
	if err != nil {
		return err
	}
	for _, child := range children {
		name := dir + child.name
		if child.info.IsDir() {
			wanted := strings.HasPrefix(name, w.prefix) || strings.HasPrefix(w.prefix, name)
			if !wanted || name <= w.after && !strings.HasPrefix(w.after, name) {
				continue
			}
			if err := w.directory(ctx, name); err != nil && !absent(err) || w.done { // absent: removed meanwhile
				return err
			}
			continue
		}
		if name > w.after && strings.HasPrefix(name, w.prefix) && !w.yield(entry(name, child.info), nil) {
			w.done = true
			return nil
		}
	}
	return nil
}

// child is an entry of a directory; another directory's name ends with a slash, which puts what is below it in its place.
type child struct {
	name string
	info os.FileInfo
}

func (f *Files) read(ctx context.Context, dir string) ([]child, error) {
	found := make(chan []os.FileInfo, 1)
	err := f.do(ctx, "list", "", func(c *client) error {
		infos, err := c.ReadDir(f.root + strings.TrimSuffix(dir, "/"))
		if err == nil {
			found <- infos
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	var children []child
	for _, info := range <-found {
		name := info.Name()
		if strings.HasPrefix(name, temporary) {
			continue
		}
		if info.IsDir() {
			name += "/"
		}
		children = append(children, child{name, info})
	}
	slices.SortFunc(children, func(a, b child) int { return cmp.Compare(a.name, b.name) })
	return children, nil
}
