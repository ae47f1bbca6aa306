package scale_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sort"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/cluster/copies"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/sampler"
)

// calm is how long a lease lasts where all nodes share one process, and load is the point: none runs out.
const calm = time.Minute

// A catalog stands for the objects of a bucket, numbered in the order of their names. A real store of so
// many would take weeks to fill.
type catalog struct {
	mu     sync.Mutex
	object func(i int) api.Object
	dealt  map[string][]int32 // numbers of each target's objects
}

// stub is a target as a gateway sees it, with a count of what it is asked: it lists its part of the
// catalog and keeps snapshots and pages by their ids. What only real targets do is tested with those.
type stub struct {
	id      string
	catalog *catalog
	shared  *shelf

	mu    sync.Mutex
	asked map[string]int // by method and kind of resource
	bytes int64          // of pages taken
	roots map[string][]byte
	pages map[sampler.PageID]bool
}

// shelf is what all stubs have together: where one has a page, another can get it.
type shelf struct {
	mu    sync.Mutex
	pages map[sampler.PageID][]byte
}

func (s *stub) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := r.URL.Path[len("/v1/"):]
	switch {
	case r.Method == http.MethodGet && strings.HasPrefix(id, "snapshots/"):
		s.mu.Lock()
		root := s.roots[id]
		s.mu.Unlock()
		if root == nil {
			w.WriteHeader(http.StatusNotFound)
			_, _ = w.Write(api.MarshalError(api.Errorf(404, api.CodeNoSnapshot, "not here")))
			return
		}
		_, _ = w.Write(sampler.AppendPart(nil, root))
	case r.Method == http.MethodGet:
		s.count("list")
		s.list(w, r)
	case r.Method == http.MethodHead:
		s.count("head snapshot")
		s.mu.Lock()
		have := s.roots[id] != nil
		s.mu.Unlock()
		if !have {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, copies.PathStat):
		s.count("stat")
		s.stat(w, r)
	case r.Method == http.MethodPost:
		s.give(w, r)
	case r.URL.Path == "/v1/pages":
		s.count("put pages")
		s.take(w, r)
	default:
		s.count("put snapshot")
		s.takeRoot(w, r, id)
	}
}

func (s *stub) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[what]++
}

func (s *stub) list(w http.ResponseWriter, r *http.Request) {
	s.catalog.mu.Lock()
	numbers, object := s.catalog.dealt[s.id], s.catalog.object
	s.catalog.mu.Unlock()
	after := r.URL.Query().Get("start_after")
	limit, err := strconv.Atoi(r.URL.Query().Get("limit"))
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	from := sort.Search(len(numbers), func(i int) bool { return object(int(numbers[i])).Name > after })
	page := api.ObjectList{Objects: []api.Object{}}
	for _, i := range numbers[from:min(from+limit, len(numbers))] {
		page.Objects = append(page.Objects, object(int(i)))
	}
	if from+limit < len(numbers) {
		page.Next = page.Objects[limit-1].Name
	}
	_ = json.NewEncoder(w).Encode(page)
}

// stat answers with those of the objects asked for that are the stub's.
func (s *stub) stat(w http.ResponseWriter, r *http.Request) {
	var names api.Names
	if err := json.NewDecoder(r.Body).Decode(&names); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.catalog.mu.Lock()
	numbers, object := s.catalog.dealt[s.id], s.catalog.object
	s.catalog.mu.Unlock()
	found := api.ObjectList{Objects: []api.Object{}}
	for _, name := range names.Names {
		at := sort.Search(len(numbers), func(i int) bool { return object(int(numbers[i])).Name >= name })
		if at < len(numbers) && object(int(numbers[at])).Name == name {
			found.Objects = append(found.Objects, object(int(numbers[at])))
		}
	}
	_ = json.NewEncoder(w).Encode(found)
}

// give answers with pages.
func (s *stub) give(w http.ResponseWriter, r *http.Request) {
	var ids []sampler.PageID
	if err := json.NewDecoder(r.Body).Decode(&ids); err != nil || r.URL.Path != "/v1/pages" {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	var pack []byte
	for _, id := range ids {
		pack = sampler.AppendPart(pack, s.shared.pages[id])
	}
	_, _ = w.Write(pack)
}

func (s *stub) take(w http.ResponseWriter, r *http.Request) {
	pack, err := io.ReadAll(r.Body)
	for len(pack) > 0 && err == nil {
		var part []byte
		var p *sampler.Page
		if part, pack, err = sampler.CutPart(pack); err == nil {
			if p, err = sampler.ParsePage(part); err == nil {
				s.keep(p)
			}
		}
	}
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (s *stub) keep(p *sampler.Page) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pages[p.ID()] = true
	s.bytes += int64(len(p.Data()))
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	s.shared.pages[p.ID()] = p.Data()
}

// takeRoot takes a snapshot if its pages can be found.
func (s *stub) takeRoot(w http.ResponseWriter, r *http.Request, id string) {
	pack, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	part, rest, err := sampler.CutPart(pack)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	root, err := sampler.ParseRoot(part)
	if err != nil || "snapshots/"+root.ID() != id {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	if len(rest) == 0 {
		s.shared.mu.Lock()
		defer s.shared.mu.Unlock()
		for _, p := range root.Pages() {
			if s.shared.pages[p.ID] == nil {
				w.WriteHeader(http.StatusConflict)
				_, _ = w.Write(api.MarshalError(api.Errorf(409, api.CodeMissingPages, "page %v", p.ID)))
				return
			}
		}
	}
	s.mu.Lock()
	s.roots[id] = part
	s.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// stubs is a real gateway over many stubs.
type stubs struct {
	*clustertest.Cluster
	targets []*stub
	catalog *catalog
	shared  *shelf
}

func startStubs(t testing.TB, n int) *stubs {
	t.Helper()
	c := &stubs{
		Cluster: clustertest.Start(t, clustertest.Options{Targets: -1, LeaseTTL: calm}),
		catalog: &catalog{},
		shared:  &shelf{pages: make(map[sampler.PageID][]byte)},
	}
	endpoints, err := c.Client.ControlPlane(t.Context())
	require.NoError(t, err)
	for i := range n {
		s := &stub{id: fmt.Sprintf("target-%d", i+1), catalog: c.catalog, shared: c.shared}
		s.forget()
		server := httptest.NewServer(s)
		t.Cleanup(server.Close)
		members, err := membership.Join(t.Context(), membership.Config{
			Endpoints: endpoints, LeaseTTL: calm, Logger: slog.New(slog.DiscardHandler),
			Self: api.Node{ID: s.id, Role: api.RoleTarget, Addr: server.Listener.Addr().String(), Weight: 1},
		})
		require.NoError(t, err)
		ctx, cancel := context.WithCancel(context.Background())
		var running sync.WaitGroup
		running.Go(func() { _ = members.Run(ctx) })
		t.Cleanup(func() {
			cancel()
			running.Wait()
			require.NoError(t, members.Close())
		})
		c.targets = append(c.targets, s)
	}
	c.Await("the gateway sees all targets", func() bool {
		m, err := c.Client.RefreshMap(t.Context())
		return err == nil && len(m.Map.Targets()) == n
	})
	_, err = c.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	return c
}

// forget loses everything that a gateway gave the stub.
func (s *stub) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked, s.bytes = make(map[string]int), 0
	s.roots, s.pages = make(map[string][]byte), make(map[sampler.PageID]bool)
}

// deal gives the objects to the targets that own them.
func (c *stubs) deal(t testing.TB, n int, object func(i int) api.Object) {
	t.Helper()
	placer, err := c.Client.RefreshMap(t.Context())
	require.NoError(t, err)
	dealt := make(map[string][]int32)
	for i := range n {
		owner, _ := placer.Owner("b", object(i).Name)
		dealt[owner.ID] = append(dealt[owner.ID], int32(i))
	}
	c.catalog.mu.Lock()
	c.catalog.object, c.catalog.dealt = object, dealt
	c.catalog.mu.Unlock()
}

// asked sums up what the targets were asked since the last time.
func (c *stubs) asked() map[string]int {
	sum := make(map[string]int)
	for _, s := range c.targets {
		s.mu.Lock()
		for what, n := range s.asked {
			sum[what] += n
		}
		s.asked = make(map[string]int)
		s.mu.Unlock()
	}
	return sum
}
