package store

import "maps"

// SetOrigin says under which tag the origin has what is staged: that may be known only once it was sent there. Call it
// before Commit, from one goroutine.
func (g *Staged) SetOrigin(tag string) {
	w := g.w.Load()
	if w == nil {
		return
	}
	meta := maps.Clone(w.info.Meta) // the original is shared
	if meta == nil {
		meta = map[string]string{}
	}
	meta[OriginTag] = tag
	w.info.Meta, g.info.Meta = meta, meta
}
