package target

import (
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/core/store"
)

// maxEntries bounds the document of entries that are to be described.
const maxEntries = 32 << 20

// describe describes objects of a backend, as a gateway has listed them for a stream, and begins to fetch what that is going
// to need.
func (s *Streams) describe(r *Request) error {
	t := s.target
	l, err := t.lister(r)
	if err != nil {
		return err
	}
	if l.bucket.Backend == nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "bucket %s has no backend", l.bucket.Name)
	}
	var asked struct {
		Entries []backend.Entry `json:"entries"`
		Fetch   bool            `json:"fetch"` // they are read soon
	}
	if err := r.JSON(maxEntries, &asked); err != nil {
		return err
	}
	for i := range asked.Entries {
		name := asked.Entries[i].Name
		if err := store.CheckName(name); err != nil {
			return err
		}
		if n, ok := l.placer.Primary(l.bucket.Name, name, l.bucket.Copies()); !ok || n.ID != t.id {
			return api.Errorf(http.StatusConflict, api.CodeStaleMap, "%s is not %s's", api.Address(l.bucket.Name, name), t.id)
		}
	}
	infos, err := t.cache.Describe(r.Context(), l.bucket, asked.Entries, func(info *store.Info) {
		if asked.Fetch && info.Kind == store.Stub {
			s.ahead.Expect(info.Bucket, info.Name, info.Version, info.Size)
		}
	})
	if err != nil {
		return err
	}
	list := api.ObjectList{Objects: make([]api.Object, len(infos))}
	for i := range infos {
		list.Objects[i] = objectOf(infos[i])
	}
	return r.WriteJSON(http.StatusOK, list)
}
