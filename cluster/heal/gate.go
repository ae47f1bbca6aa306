package heal

import (
	"context"
	"sync"
)

// Gate keeps commits of writes and passes over the index apart. A write is placed by one version of the map; if its
// commit could land behind a pass that works to a newer one, nobody would bring it to where that map puts it, and it
// would be lost once the earlier set of targets is forgotten.
//
// The zero Gate is ready to use.
type Gate struct {
	mu      sync.Mutex
	inside  map[int64]int // commits under way, by the version of the map that they are placed by
	changed chan struct{} // closed when a commit ends while somebody waits
}

// Enter begins the commit of a write: what follows, up to leave, is by the version that is returned. current tells the
// version of the map that this node has now, and is asked again inside, so that no commit by an older one begins after
// Quiet has returned. Whether the write's own placement was of that version is for the caller to check, after Enter.
func (g *Gate) Enter(current func() int64) (version int64, leave func()) {
	for {
		version = current()
		g.mu.Lock()
		if g.inside == nil {
			g.inside = map[int64]int{}
		}
		g.inside[version]++
		g.mu.Unlock()
		if current() == version {
			return version, sync.OnceFunc(func() { g.leave(version) })
		}
		g.leave(version)
	}
}

func (g *Gate) leave(version int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.inside[version]--; g.inside[version] == 0 {
		delete(g.inside, version)
	}
	if g.changed != nil {
		close(g.changed)
		g.changed = nil
	}
}

// Quiet returns once no commit by a version before the given one is under way. None begins after that, provided that
// this node has the version already.
func (g *Gate) Quiet(ctx context.Context, version int64) error {
	for {
		g.mu.Lock()
		older := false
		for v := range g.inside {
			older = older || v < version
		}
		if !older {
			g.mu.Unlock()
			return nil
		}
		if g.changed == nil {
			g.changed = make(chan struct{})
		}
		changed := g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
