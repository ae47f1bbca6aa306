package sampler

import "fmt"

// Builder makes a snapshot of shards as they come, so that a listing of any length needs no memory but
// the snapshot's own. The zero Builder is ready. It is not safe for concurrent use.
type Builder struct {
	page    *pageWriter
	pages   []*Page
	infos   []PageInfo
	shards  int
	samples int64
	name    []byte
}

// Add appends a shard. After an error the builder is as it was before.
func (b *Builder) Add(sh Shard) error {
	switch {
	case b.shards >= MaxShards:
		return fmt.Errorf("sampler: more than %d shards in one snapshot", MaxShards)
	case sh.Name == "" || len(sh.Name) > MaxName:
		return fmt.Errorf("sampler: name of shard %d has %d bytes, 1 to %d are allowed", b.shards, len(sh.Name), MaxName)
	case sh.Samples < 0:
		return fmt.Errorf("sampler: shard %q has a negative sample count, %d", sh.Name, sh.Samples)
	case sh.Samples > MaxSamples-b.samples:
		return fmt.Errorf("sampler: more than %d samples up to shard %q", int64(MaxSamples), sh.Name)
	}
	b.name = append(b.name[:0], sh.Name...)
	if b.page == nil {
		b.page = newPageWriter()
	}
	if !b.page.add(b.name, sh.Version, sh.Samples) {
		b.endPage()
		b.page = newPageWriter()
		b.page.add(b.name, sh.Version, sh.Samples) // a page takes any one shard
	}
	b.shards, b.samples = b.shards+1, b.samples+sh.Samples
	return nil
}

// NumShards is the number of shards added.
func (b *Builder) NumShards() int { return b.shards }

// Samples is the number of samples of the shards added.
func (b *Builder) Samples() int64 { return b.samples }

func (b *Builder) endPage() {
	p := b.page.page()
	b.pages = append(b.pages, p)
	b.infos = append(b.infos, PageInfo{ID: p.id, Shards: p.shards, Samples: p.samples, Bytes: len(p.data)})
	b.page = nil
}

// Snapshot ends the builder, which must not be used afterwards.
func (b *Builder) Snapshot() (*Snapshot, error) {
	if b.page != nil {
		b.endPage()
	}
	root, err := newRoot(b.infos)
	if err != nil {
		return nil, fmt.Errorf("sampler: %w", err)
	}
	return &Snapshot{root: root, pages: b.pages}, nil
}
