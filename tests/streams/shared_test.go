package streams_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/tests/arena"
)

// TestLateWriterHarmsNothing: a target that was given places, fell silent, and wakes up after the loader
// has given it up, writes into memory that serves no batch any more.
func TestLateWriterHarmsNothing(t *testing.T) {
	const mean = 90_000
	c := newCluster(t, 1).fill(3, 40, mean)
	l := open(t, c, func(cfg *loader.Config) { cfg.Timeout = 400 * time.Millisecond })
	writers := make(chan writer, 16)
	c.targets[0].setRogue(func(nc *net.UnixConn, req wire.ReadRequest) { silentTarget(t, nc, req, writers) })
	require.NoError(t, l.Start(loader.Run{}))
	_, err := drain(t, l)
	require.Error(t, err, "the target answers nothing")
	c.targets[0].setRogue(nil)

	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		scribble(writers, stop)
	}()
	for epoch := range uint64(3) {
		got := run(t, l, loader.Run{Epoch: epoch})
		require.Equal(t, c.planned(epoch), keysOf(got))
		c.checkBytes(t, got, mean)
	}
	close(stop)
	<-done
}

// writer is what a target can reach of a loader's memory.
type writer struct {
	conn *net.UnixConn
	mem  []byte
	at   int64
	n    int64
}

// silentTarget announces one item to be placed, takes the place, and says nothing more.
func silentTarget(t *testing.T, nc *net.UnixConn, req wire.ReadRequest, writers chan<- writer) {
	const size = 80_000
	var b wire.Batch
	b.Reset(req.From)
	b.Samples = append(b.Samples, wire.Sample{Slot: 0, Key: []byte("k")})
	b.Items = append(b.Items, wire.Item{Field: b.Field("jpg"), Size: size, Sum: xxh3.Hash(make([]byte, size))})
	head := b.Append(nil)
	_, err := nc.Write(append(wire.AppendBatchHeader(nil, wire.Placed, head, size), head...))
	if err != nil {
		return
	}
	fixed, oob := make([]byte, wire.PlacementSize), make([]byte, unix.CmsgSpace(4))
	n, control, _, _, err := nc.ReadMsgUnix(fixed, oob)
	if err != nil || n != len(fixed) {
		return
	}
	p, err := wire.ParsePlacement(fixed)
	if err != nil {
		return
	}
	offsets := make([]byte, 8*p.Items)
	if _, err := io.ReadFull(nc, offsets); err != nil {
		return
	}
	messages, err := unix.ParseSocketControlMessage(oob[:control])
	if err != nil || len(messages) != 1 {
		t.Errorf("a placement came without its memory: %v", err)
		return
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return
	}
	mem, err := unix.Mmap(fds[0], 0, int(p.Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	_ = unix.Close(fds[0])
	if err == nil {
		writers <- writer{nc, mem, wire.ParseOffsets(offsets, nil)[0], size}
	}
}

// scribble writes over the places again and again until it is to stop.
func scribble(writers chan writer, stop <-chan struct{}) {
	var all []writer
	for len(writers) > 0 {
		all = append(all, <-writers)
	}
	garbage := bytes.Repeat([]byte{0xEE}, 1<<20)
	for {
		select {
		case <-stop:
			for _, w := range all {
				_ = unix.Munmap(w.mem)
				_ = w.conn.Close()
			}
			return
		default:
			for _, w := range all {
				copy(w.mem[w.at:w.at+w.n], garbage)
			}
			runtime.Gosched()
		}
	}
}

// announce writes the head of a frame whose items are to be placed.
func announce(nc *net.UnixConn, b *wire.Batch) error {
	head := b.Append(nil)
	_, err := nc.Write(append(wire.AppendBatchHeader(nil, wire.Placed, head, b.Payload()), head...))
	return err
}

// TestATargetThatCantShareIsReadOverTCP: that it can't map the loader's memory is no reason not to read from it.
func TestATargetThatCantShareIsReadOverTCP(t *testing.T) {
	c := newCluster(t, 1).fill(2, 40, 10_000)
	c.targets[0].setRogue(func(nc *net.UnixConn, _ wire.ReadRequest) {
		head := wire.Failure{Code: wire.CodeUnshared, Message: "its memory can't be mapped"}.Append(nil)
		_, _ = nc.Write(append(wire.AppendHeader(nil, wire.FrameError, head, 0), head...))
	})
	l := open(t, c, nil)
	require.Equal(t, c.planned(0), keysOf(run(t, l, loader.Run{})))
	require.Equal(t, loader.TransportTCP, l.Stats().Targets[c.targets[0].id].Transport)
}

// TestAHeadOfPlacesThatThereAreNot is an error of the iteration.
func TestAHeadOfPlacesThatThereAreNot(t *testing.T) {
	c := newCluster(t, 1).fill(1, 40, 10_000)
	c.targets[0].setRogue(func(nc *net.UnixConn, req wire.ReadRequest) {
		var b wire.Batch
		b.Reset(req.From)
		b.Samples = []wire.Sample{{Slot: 3}, {Slot: 5000}}
		b.Items = []wire.Item{{Field: b.Field("jpg"), Size: 80_000}}
		_ = announce(nc, &b)
	})
	l := open(t, c, nil)
	require.NoError(t, l.Start(loader.Run{}))
	_, err := drain(t, l)
	require.ErrorContains(t, err, "place 5000 in a batch of 32")
}

// TestABrokenStreamOfABatchThatIsGone: a target was told of places for nothing that the batch still needed,
// the consumer took the batch, and then the stream breaks, its target not heard to have ended.
func TestABrokenStreamOfABatchThatIsGone(t *testing.T) {
	c := newCluster(t, 1).fill(2, 40, 10_000)
	idle := c.join()
	c.seal()
	placed, taken := make(chan struct{}), make(chan struct{})
	var once sync.Once
	idle.setRogue(func(nc *net.UnixConn, req wire.ReadRequest) {
		idle.setRogue(nil)
		var b wire.Batch
		b.Reset(req.From)
		if announce(nc, &b) != nil {
			return
		}
		if _, err := io.ReadFull(nc, make([]byte, wire.PlacementSize)); err != nil {
			return
		}
		once.Do(func() { close(placed) })
		select {
		case <-taken:
		case <-idle.ended:
		}
		_, _ = nc.Write(make([]byte, wire.HeaderSize)) // which is no frame
	})
	l := open(t, c, nil)
	require.NoError(t, l.Start(loader.Run{}))
	<-placed
	first, err := next(t, l)
	require.NoError(t, err)
	close(taken)
	rest, err := drain(t, l)
	require.NoError(t, err)
	require.Equal(t, c.planned(0), keysOf(append([]arena.Batch{first}, rest...)))
}

// TestPlacementsOfManyItems: a loader that reads no head before it has said where the items of the one before
// go finds the target reading, however little their sockets hold.
func TestPlacementsOfManyItems(t *testing.T) {
	const batch = 2200                       // samples of two items
	c := newCluster(t, 1).fill(4, batch, 64) // a shard for each batch
	o := &crowded{Objects: c.targets[0].srv.Objects}
	c.targets[0].srv.Objects = o
	c.targets[0].setWrap(func(nc net.Conn) net.Conn {
		_ = nc.(*net.UnixConn).SetWriteBuffer(4 << 10)
		return nc
	})
	nc := c.dialShared(t, wire.ReadRequest{Shuffle: "none", BatchSize: batch, World: 1, Workers: 1, To: 4, Chunk: 16, Share: true})
	require.NoError(t, nc.SetWriteBuffer(4<<10))
	filled := 0
	for {
		h, head := readFrame(t, nc)
		switch h.Type {
		case wire.FrameBatch:
			require.Equal(t, wire.Placed, h.Encoding)
			var b wire.Batch
			require.NoError(t, b.Parse(head, h.Payload))
			nowhere := make([]int64, len(b.Items))
			for i := range nowhere {
				nowhere[i] = wire.Nowhere
			}
			// By the first answer, the target has batches to send that were prepared meanwhile.
			require.Eventually(t, func() bool { return o.refusals.Load() == -4 }, patience, time.Millisecond)
			_, err := nc.Write(wire.AppendPlacement(nil, wire.Placement{Index: b.Index}, nowhere))
			require.NoError(t, err)
		case wire.FrameFilled:
			filled++
		case wire.FrameEnd:
			require.Equal(t, 4, filled)
			return
		default:
			require.Equal(t, wire.FrameChunk, h.Type)
		}
	}
}

// TestSharedMemoryIsOnlyForTheProcessInTheMap: whoever else listens under a target's name gets no memory.
func TestSharedMemoryIsOnlyForTheProcessInTheMap(t *testing.T) {
	c := newCluster(t, 2).fill(2, 20, 10_000)
	c.pid = 1
	l := open(t, c, nil)
	require.Equal(t, c.planned(0), keysOf(run(t, l, loader.Run{})))
	for id, target := range l.Stats().Targets {
		require.Equal(t, loader.TransportTCP, target.Transport, id)
	}
}

// TestMemoryThatMayShrinkIsNotMapped: a target refuses memory whose owner could take it away under it.
func TestMemoryThatMayShrinkIsNotMapped(t *testing.T) {
	c := newCluster(t, 1).fill(2, 20, 30_000)
	nc := c.dialShared(t, wire.ReadRequest{Shuffle: "none", BatchSize: 16, World: 1, Workers: 1, To: 1, Chunk: 16, Share: true})
	h, head := readFrame(t, nc)
	require.Equal(t, wire.FrameBatch, h.Type)
	require.Equal(t, wire.Placed, h.Encoding)
	var b wire.Batch
	require.NoError(t, b.Parse(head, h.Payload))

	fd, err := unix.MemfdCreate("unsealed", unix.MFD_CLOEXEC)
	require.NoError(t, err)
	defer func() { _ = unix.Close(fd) }()
	require.NoError(t, unix.Ftruncate(fd, 8<<20))
	offsets := make([]int64, len(b.Items))
	placement := wire.AppendPlacement(nil, wire.Placement{Size: 8 << 20}, offsets)
	_, _, err = nc.WriteMsgUnix(placement, unix.UnixRights(fd), nil)
	require.NoError(t, err)
	h, head = readFrame(t, nc)
	require.Equal(t, wire.FrameError, h.Type)
	f, err := wire.ParseFailure(head)
	require.NoError(t, err)
	require.Equal(t, wire.CodeUnshared, f.Code)
	require.Contains(t, f.Message, "sealed")
}

// TestHostilePlacementsEndTheirStreamOnly: offsets outside the slot, other batches and wrong counts.
func TestHostilePlacementsEndTheirStreamOnly(t *testing.T) {
	c := newCluster(t, 1).fill(2, 20, 30_000)
	for name, edit := range map[string]func(*wire.Placement, []int64) []int64{
		"beyond the end":  func(_ *wire.Placement, at []int64) []int64 { at[1] = 8<<20 - 1; return at },
		"negative":        func(_ *wire.Placement, at []int64) []int64 { at[0] = -2; return at },
		"another batch":   func(p *wire.Placement, at []int64) []int64 { p.Index = 7; return at },
		"too few":         func(_ *wire.Placement, at []int64) []int64 { return at[1:] },
		"an unknown slot": func(p *wire.Placement, at []int64) []int64 { p.Slot = 9; return at },
		"more than there": func(p *wire.Placement, at []int64) []int64 { p.Size = 1 << 30; return at },
	} {
		t.Run(name, func(t *testing.T) {
			nc := c.dialShared(t, wire.ReadRequest{Shuffle: "none", BatchSize: 16, World: 1, Workers: 1, To: 1, Chunk: 16, Share: true})
			h, head := readFrame(t, nc)
			var b wire.Batch
			require.NoError(t, b.Parse(head, h.Payload))
			p := wire.Placement{Size: 8 << 20}
			offsets := edit(&p, make([]int64, len(b.Items)))
			var rights []byte
			if name != "an unknown slot" {
				fd, err := unix.MemfdCreate("slot", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
				require.NoError(t, err)
				defer func() { _ = unix.Close(fd) }()
				require.NoError(t, unix.Ftruncate(fd, 8<<20))
				_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK)
				require.NoError(t, err)
				rights = unix.UnixRights(fd)
			}
			_, _, err := nc.WriteMsgUnix(wire.AppendPlacement(nil, p, offsets), rights, nil)
			require.NoError(t, err)
			rest, err := io.ReadAll(nc)
			if !errors.Is(err, unix.ECONNRESET) {
				require.NoError(t, err)
			}
			require.NotContains(t, string(rest), "SSF1\x06", "nothing was filled")
		})
	}
	require.Equal(t, c.planned(0), keysOf(run(t, open(t, c, nil), loader.Run{})), "others are served as before")
}
