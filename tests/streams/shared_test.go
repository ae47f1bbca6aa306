package streams_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/zeebo/xxh3"
	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/loader"
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
