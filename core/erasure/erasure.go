// Package erasure cuts an object into slices, any Data of which are enough to make the object again, and makes it
// again from them. It is Reed-Solomon coding by github.com/klauspost/reedsolomon, for objects of any length that are
// never in memory as a whole.
//
// An object is a row of stripes. A stripe has one unit for each data slice, which are the object's bytes as they
// come, and one for each parity slice; slice i is unit i of all stripes, one after another. The last stripe has
// shorter units, so that all slices of an object have the same length and little is padded.
//
// The package knows no disks and no network: slices are written to io.Writers and read from Readers. Neither does
// it know checksums. Reed-Solomon mends what is missing and can't tell what is wrong: a Reader must not give out bytes
// that it has not verified.
package erasure

import (
	"errors"
	"fmt"
	"sync"

	"github.com/klauspost/reedsolomon"
)

// UnitSize is the length of a unit in all stripes but the last: as much as a store has under one checksum, so that a
// stripe can be read without reading parts of blocks.
const UnitSize = 64 << 10

// MaxSlices is the most that an object can be cut into.
const MaxSlices = 256

// batchBytes bounds what is coded at once, parity included: small enough for a processor's cache.
const batchBytes = 4 << 20

// Code cuts objects into Data slices and Parity more. It may be used from any goroutine.
type Code struct {
	data, parity int
	stripe       reedsolomon.Encoder // for units: too short to be shared out between processors
	batch        reedsolomon.Encoder // for the units of several stripes in one piece
	units        int                 // of each slice in a batch
}

var codes sync.Map // of [2]int to *Code: the matrices are the same for all objects

// New gives the code with so many data and parity slices, at least one of each.
func New(data, parity int) (*Code, error) {
	if data < 1 || parity < 1 || data+parity > MaxSlices {
		return nil, fmt.Errorf("erasure code %d+%d: it takes at least one data and one parity slice, and at most %d in all", data, parity, MaxSlices)
	}
	key := [2]int{data, parity}
	if c, ok := codes.Load(key); ok {
		return c.(*Code), nil //nolint:forcetypeassert // nothing else is stored there
	}
	c := &Code{data: data, parity: parity, units: max(1, batchBytes/UnitSize/(data+parity))}
	var err, failed error
	c.stripe, err = reedsolomon.New(data, parity, reedsolomon.WithMaxGoroutines(1))
	c.batch, failed = reedsolomon.New(data, parity, reedsolomon.WithAutoGoroutines(c.units*UnitSize))
	if err = errors.Join(err, failed); err != nil {
		return nil, fmt.Errorf("erasure code %d+%d: %w", data, parity, err)
	}
	first, _ := codes.LoadOrStore(key, c)
	return first.(*Code), nil //nolint:forcetypeassert // as above
}

// Data is the number of slices that an object can be made from.
func (c *Code) Data() int { return c.data }

// Parity is the number of slices that may be lost.
func (c *Code) Parity() int { return c.parity }

// Slices is the number of slices of an object.
func (c *Code) Slices() int { return c.data + c.parity }

// SliceSize is the length of each slice of an object of that size.
func (c *Code) SliceSize(size int64) int64 {
	return size/c.stripeSize()*UnitSize + c.lastUnit(size)
}

// stripeSize is the number of the object's bytes in a full stripe.
func (c *Code) stripeSize() int64 { return int64(c.data) * UnitSize }

// lastUnit is the length of a unit in the last stripe, 0 where all stripes are full.
func (c *Code) lastUnit(size int64) int64 {
	rest := size % c.stripeSize()
	return (rest + int64(c.data) - 1) / int64(c.data)
}

// buffers are a batch's memory: a piece for each slice. They are pooled by nothing but their lengths.
type buffers struct{ pool sync.Pool }

var memory buffers

func (b *buffers) get(n int) *[]byte {
	if p, ok := b.pool.Get().(*[]byte); ok && cap(*p) >= n {
		*p = (*p)[:n]
		return p
	}
	p := make([]byte, n)
	return &p
}

func (b *buffers) put(p *[]byte) { b.pool.Put(p) }
