// Package loader is the client core of a sample stream: it opens one connection per target, reads
// each payload from the socket straight into its place in a batch's memory, and hands finished
// batches over in the order of the plan. It knows the plan only as arithmetic on positions
// (sampler.View): which sample sits at a position is the targets' knowledge, so a loader's memory
// does not grow with the data set.
//
// A Loader owns an arena of slots, each a memfd that another runtime in the process (Python) maps too.
// Start begins an iteration; Next gives a slot and the offset of its table (see table.go for the
// layout); Release gives the slot back. A Loader serves one iteration at a time; its methods may be
// called from any goroutine.
package loader

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/sampler"
)

// Control is what a loader asks of the cluster's gateways.
type Control interface {
	// OpenStream resolves the sources to a snapshot and says where its targets are.
	OpenStream(ctx context.Context, req api.StreamRequest) (api.StreamInfo, error)
	// RefreshMap fetches the current cluster map.
	RefreshMap(ctx context.Context) (*api.Placer, error)
}

// Config describes a stream, whichever epoch or rank iterates it.
type Config struct {
	Sources   []string
	Mixture   *Mixture // takes the place of Sources, Shuffle and ETL
	Samples   string   // api.SamplesShards, or api.SamplesObjects; shards when empty
	BatchSize int
	// Shuffle is global, window, shards or none; "": the gateway chooses, window with Slices and Window that fit the cache
	// where a source has a backend, else global.
	Shuffle   string
	Slices    int // of a window; 0: the defaults
	Window    int
	Seed      uint64
	ETL       string          // transformations, separated by commas
	ETLArgs   json.RawMessage // of these; see api.StreamRequest
	Fields    []string
	Decode    map[string]any // how the targets decode fields; see api.StreamRequest
	DropLast  bool
	Prefetch  int           // batches assembled ahead; 4 when 0
	MaxBatch  int64         // bytes that a batch may take, whatever a target claims to send; 4 GiB when 0
	OnError   Policy        // Raise when empty
	MaxErrors *Budget       // of samples left out by Skip or Warn; nil: any number
	Pad       bool          // every batch has BatchSize rows and a mask
	Timeout   time.Duration // without any progress from a target; 60 s when 0
	// SharedMemory lets targets of this machine write into the arena instead of sending over TCP.
	SharedMemory bool
	// ReadAhead opens the next epoch, and fills its first batches, when all of this one has been read.
	ReadAhead bool
	// Compress says when payloads travel compressed: wire.CompressAuto when empty.
	Compress string
	Logger   *slog.Logger
}

// padTo is the number of rows of every batch; 0 where each has as many as it has samples.
func (c *Config) padTo() int {
	if c.Pad {
		return c.BatchSize
	}
	return 0
}

// Run says which part of which epoch an iteration yields.
type Run struct {
	Epoch    uint64
	Position int64 // in samples of the epoch; 0 at its start
	Rank     int
	World    int
	Worker   int
	Workers  int
	Snapshot string // refuse to iterate any other, when set
}

// Bounds on the settings.
const (
	defaultPrefetch = 4
	defaultMaxBatch = 4 << 30
	minMaxBatch     = 1 << 20
	maxPrefetch     = 1024
	defaultTimeout  = 60 * time.Second
	chunkBatches    = 16 // plan chunk: batches between a target's marks
)

// Loader assembles batches. Make one with New.
type Loader struct {
	cfg     Config
	control Control
	arena   *arena
	// disconnect gives up the idle connections of a client that is the loader's own.
	disconnect func()

	mu     sync.Mutex
	run    *iteration
	next   *iteration // ahead of its time; nil unless run has been read to its end
	closed bool
	total  counters // of finished iterations
}

// Connect makes a loader of the cluster that a gateway's URL names; where endpoint or token is empty, the
// environment's is taken. It touches no network yet.
func Connect(endpoint, token string, cfg Config) (*Loader, error) {
	client, err := api.NewClient(api.Options{Endpoint: endpoint, Token: token})
	if err != nil {
		return nil, badRequest("%v", err)
	}
	l, err := New(cfg, client)
	if err == nil {
		l.disconnect = client.Close
	}
	return l, err
}

// New checks the configuration; it touches neither network nor memory.
func New(cfg Config, control Control) (*Loader, error) {
	if cfg.Prefetch == 0 {
		cfg.Prefetch = defaultPrefetch
	}
	if cfg.MaxBatch == 0 {
		cfg.MaxBatch = defaultMaxBatch
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = defaultTimeout
	}
	if cfg.OnError == "" {
		cfg.OnError = Raise
	}
	if cfg.Compress == "" {
		cfg.Compress = wire.CompressAuto
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	switch {
	case cfg.Mixture != nil && (len(cfg.Sources) > 0 || cfg.Shuffle != "" || cfg.ETL != "" || len(cfg.ETLArgs) > 0):
		return nil, badRequest("a mixture takes the place of sources, shuffle and etl")
	case cfg.Mixture == nil && len(cfg.Sources) == 0:
		return nil, badRequest("a stream needs at least one source, such as ss://bucket/train-*.tar")
	case cfg.BatchSize < 1:
		return nil, badRequest("batch_size must be 1 or more, not %d", cfg.BatchSize)
	case cfg.BatchSize > sampler.MaxBatchSize:
		return nil, badRequest("batch_size must be %d or less, not %d", sampler.MaxBatchSize, cfg.BatchSize)
	case cfg.Prefetch < 1 || cfg.Prefetch > maxPrefetch:
		return nil, badRequest("prefetch must be 1 to %d batches, not %d", maxPrefetch, cfg.Prefetch)
	case cfg.Compress != wire.CompressAuto && cfg.Compress != wire.CompressAlways && cfg.Compress != wire.CompressOff:
		return nil, badRequest("compress must be auto, lz4 or off, not %q", cfg.Compress)
	case cfg.MaxBatch < minMaxBatch || cfg.MaxBatch > slotReserve:
		return nil, badRequest("max_batch_bytes must be %d to %d, not %d", int64(minMaxBatch), int64(slotReserve), cfg.MaxBatch)
	case cfg.Timeout < 0:
		return nil, badRequest("timeout must be positive, not %v", cfg.Timeout)
	case cfg.OnError != Raise && cfg.OnError != Skip && cfg.OnError != Warn:
		return nil, badRequest("on_error must be raise, skip or warn, not %q", cfg.OnError)
	}
	if err := api.CheckSamples(cfg.Samples); err != nil {
		return nil, err
	}
	if err := checkShuffle(&cfg); err != nil {
		return nil, err
	}
	if err := cfg.MaxErrors.validate(); err != nil {
		return nil, err
	}
	if cfg.MaxErrors != nil && cfg.OnError == Raise {
		return nil, badRequest("max_errors needs on_error skip or warn: raise ends with the first error")
	}
	return &Loader{cfg: cfg, control: control, arena: newArena(cfg.Prefetch+1, cfg.MaxBatch)}, nil
}

// checkShuffle refuses what no gateway would take.
func checkShuffle(cfg *Config) error {
	shuffle := sampler.Shuffle{Slices: cfg.Slices, Window: cfg.Window}
	if cfg.Shuffle != "" {
		var err error
		if shuffle.Mode, err = sampler.ParseMode(cfg.Shuffle); err != nil {
			return badRequest("%v", err)
		}
	}
	if err := shuffle.Validate(); err != nil {
		return badRequest("%v", err)
	}
	return nil
}

// Start begins an iteration and ends an earlier one. It returns at once; faults of the network or the
// description come out of Next.
func (l *Loader) Start(r Run) error {
	if r.World == 0 {
		r.World = 1
	}
	if r.Workers == 0 {
		r.Workers = 1
	}
	if err := l.view(r).Validate(); err != nil {
		return badRequest("%v", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return ErrClosed
	}
	next := l.next
	l.next = nil
	if next != nil {
		next.expiry.Stop() // which holds it: epochs may be short, and many
	}
	l.stopLocked()
	if next != nil && next.run == r {
		l.run = next
		next.adopt()
		return nil
	}
	if next != nil {
		next.stop()
	}
	l.run = startIteration(l, r, false)
	return nil
}

// view is a run's part of the epoch. Its samples are known only later; all else is checked before.
func (l *Loader) view(r Run) sampler.View {
	return sampler.View{
		Start: r.Position, Samples: r.Position, BatchSize: l.cfg.BatchSize,
		World: r.World, Rank: r.Rank, Workers: r.Workers, Worker: r.Worker, DropLast: l.cfg.DropLast,
	}
}

// stopLocked ends the running iteration and keeps its counts.
func (l *Loader) stopLocked() {
	if l.run != nil {
		l.run.stop()
		l.total.add(l.run.snapshotCounters())
		l.run = nil
	}
}

// Next waits up to timeout for the next batch and returns its slot and the offset of its table in that
// slot. The slot belongs to the caller until Release. It returns ErrEnd after the last batch and
// ErrTimeout when none was ready; any other error ends the iteration.
func (l *Loader) Next(timeout time.Duration) (slot int, table int64, err error) {
	for {
		l.mu.Lock()
		it := l.run
		closed := l.closed
		l.mu.Unlock()
		if closed {
			return 0, 0, ErrClosed
		}
		if it == nil {
			return 0, 0, errors.New("no iteration was started")
		}
		slot, table, err = it.next(timeout)
		if !errors.Is(err, errOutdated) {
			return slot, table, err
		}
		l.startAnew(it)
	}
}

// Release gives a slot of Next back for reuse. Its bytes may change at once.
func (l *Loader) Release(slot int) error {
	if err := l.arena.release(slot); err != nil {
		return err
	}
	l.mu.Lock()
	run, next := l.run, l.next
	l.mu.Unlock()
	for _, it := range []*iteration{run, next} {
		if it != nil {
			it.slotFreed()
		}
	}
	return nil
}

// Slot returns the memfd of a slot and its present size in bytes.
func (l *Loader) Slot(slot int) (fd int, size int64, err error) { return l.arena.describe(slot) }

// View returns the bytes of a slot; valid until Release and Close. It is for callers in this runtime.
func (l *Loader) View(slot int) ([]byte, error) { return l.arena.view(slot) }

// Close ends the iteration, waits for its goroutines and frees the arena. Mappings made by others stay
// readable. It is idempotent.
func (l *Loader) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.closed = true
	l.stopLocked()
	if l.next != nil {
		l.next.expiry.Stop()
		l.next.stop()
		l.next = nil
	}
	if l.disconnect != nil {
		l.disconnect()
	}
	if err := l.arena.close(); err != nil {
		return fmt.Errorf("close arena: %w", err)
	}
	return nil
}
