// Package pybind is the flat face of the loader that gopy binds for Python: functions of int64 and
// string that return (T, error), nothing else. Every other shape leaks, crashes or copies under gopy
// v0.4.10. Payload never crosses here: Python maps the memfds of the loader's slots.
//
// Errors read "code|message"; the codes are those of the REST contract, and timeout, closed,
// sample_error, too_many_errors, snapshot_changed. No function panics: a panic in Go would end the Python process.
package pybind

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/shardstream/shardstream/loader"
)

// version is set by the build.
var version = "dev"

// Results of Next that are no batch.
const (
	end     = -1
	nothing = -2
)

// slotShift separates the slot from the table's offset in the result of Next.
const slotShift = 48

var registry = struct {
	sync.Mutex
	last    int64
	loaders map[int64]*loader.Loader
}{loaders: make(map[int64]*loader.Loader)}

type openConfig struct {
	Mixture *loader.Mixture `json:"mixture"`

	Endpoint  string          `json:"endpoint"`
	Token     string          `json:"token"`
	Sources   []string        `json:"sources"`
	Samples   string          `json:"samples"`
	BatchSize int             `json:"batch_size"`
	Shuffle   string          `json:"shuffle"`
	Slices    int             `json:"slices"`
	Window    int             `json:"window"`
	Seed      uint64          `json:"seed"`
	ETL       string          `json:"etl"`
	ETLArgs   json.RawMessage `json:"etl_args"`
	Fields    []string        `json:"fields"`
	Decode    map[string]any  `json:"decode"`
	DropLast  bool            `json:"drop_last"`
	Prefetch  int             `json:"prefetch"`
	MaxBatch  int64           `json:"max_batch_bytes"`
	OnError   string          `json:"on_error"`
	TimeoutS  float64         `json:"timeout_s"`
	Shared    bool            `json:"shared_memory"`
	Compress  string          `json:"compress"`
	ReadAhead bool            `json:"read_ahead"`
	Pad       bool            `json:"pad"`
	// MaxErrors is {"count": 10} or {"fraction": 0.01}; null: any number.
	MaxErrors *loader.Budget `json:"max_errors"`
}

type startConfig struct {
	Epoch    uint64 `json:"epoch"`
	Position int64  `json:"position"`
	Rank     int    `json:"rank"`
	World    int    `json:"world_size"`
	Worker   int    `json:"worker"`
	Workers  int    `json:"workers"`
	Snapshot string `json:"snapshot"`
}

// Open makes a loader from a JSON configuration and returns its id. It touches no network. The loader
// logs nothing: what a user should see of it, Python says in its own way.
func Open(config string) (id int64, err error) {
	defer guard(&err)
	var c openConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		return 0, fmt.Errorf("bad_request|configuration: %w", err)
	}
	l, err := loader.Connect(c.Endpoint, c.Token, loader.Config{
		Mixture: c.Mixture,
		Sources: c.Sources, Samples: c.Samples, BatchSize: c.BatchSize, Shuffle: c.Shuffle, Slices: c.Slices, Window: c.Window, Seed: c.Seed, ETL: c.ETL, ETLArgs: c.ETLArgs, Fields: c.Fields, Decode: c.Decode,
		DropLast: c.DropLast, Prefetch: c.Prefetch, MaxBatch: c.MaxBatch, OnError: loader.Policy(c.OnError),
		Timeout: time.Duration(c.TimeoutS * float64(time.Second)), SharedMemory: c.Shared, Compress: c.Compress, ReadAhead: c.ReadAhead,
		Pad: c.Pad, MaxErrors: c.MaxErrors,
	})
	if err != nil {
		return 0, coded(err)
	}
	registry.Lock()
	defer registry.Unlock()
	registry.last++
	registry.loaders[registry.last] = l
	return registry.last, nil
}

// Start begins an iteration described by JSON; an earlier one of the same loader ends.
func Start(id int64, iteration string) (ok int64, err error) {
	defer guard(&err)
	l, err := lookup(id)
	if err != nil {
		return 0, err
	}
	var c startConfig
	if err := json.Unmarshal([]byte(iteration), &c); err != nil {
		return 0, fmt.Errorf("bad_request|iteration: %w", err)
	}
	return 0, coded(l.Start(loader.Run{
		Epoch: c.Epoch, Position: c.Position, Rank: c.Rank, World: c.World,
		Worker: c.Worker, Workers: c.Workers, Snapshot: c.Snapshot,
	}))
}

// Next waits up to timeoutMs for a batch: slot<<48 | table offset, -1 at the end of the epoch, -2 when
// none was ready in time.
func Next(id int64, timeoutMs int64) (batch int64, err error) {
	defer guard(&err)
	l, err := lookup(id)
	if err != nil {
		return 0, err
	}
	slot, table, err := l.Next(time.Duration(timeoutMs) * time.Millisecond)
	switch {
	case errors.Is(err, loader.ErrEnd):
		return end, nil
	case errors.Is(err, loader.ErrTimeout):
		return nothing, nil
	case err != nil:
		return 0, coded(err)
	}
	return int64(slot)<<slotShift | table, nil
}

// Release gives a batch's slot back.
func Release(id int64, slot int64) (ok int64, err error) {
	defer guard(&err)
	l, err := lookup(id)
	if err != nil {
		return 0, err
	}
	return 0, coded(l.Release(int(slot)))
}

// SlotFd returns the memfd of a slot that Next gave; it stays the loader's.
func SlotFd(id int64, slot int64) (fd int64, err error) {
	defer guard(&err)
	l, err := lookup(id)
	if err != nil {
		return 0, err
	}
	n, _, err := l.Slot(int(slot))
	return int64(n), coded(err)
}

// SlotSize returns how many bytes of a slot's memfd exist now; it may have grown since the last batch.
func SlotSize(id int64, slot int64) (size int64, err error) {
	defer guard(&err)
	l, err := lookup(id)
	if err != nil {
		return 0, err
	}
	_, size, err = l.Slot(int(slot))
	return size, coded(err)
}

// Stats returns the loader's counts as JSON.
func Stats(id int64) (stats string, err error) {
	defer guard(&err)
	l, err := lookup(id)
	if err != nil {
		return "", err
	}
	b, err := json.Marshal(l.Stats())
	return string(b), coded(err)
}

// Close ends a loader and frees its memory; Python's mappings stay readable. Closing twice is no error.
func Close(id int64) (ok int64, err error) {
	defer guard(&err)
	registry.Lock()
	l := registry.loaders[id]
	delete(registry.loaders, id)
	registry.Unlock()
	if l == nil {
		return 0, nil
	}
	return 0, coded(l.Close())
}

// Version is the version of the native module.
func Version() (name string, err error) {
	defer guard(&err)
	return version, nil
}

func lookup(id int64) (*loader.Loader, error) {
	registry.Lock()
	defer registry.Unlock()
	if l := registry.loaders[id]; l != nil {
		return l, nil
	}
	return nil, errors.New("closed|this stream is closed")
}

// coded puts the error's code before its message.
func coded(err error) error {
	if err == nil {
		return nil
	}
	code, message := loader.Describe(err)
	return errors.New(code + "|" + message)
}

// guard turns a panic into an error.
func guard(err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("internal|panic: %v\n%s", r, debug.Stack())
	}
}
