package stream

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/wire"
)

const (
	// slowLink is the rate, in bytes per second, below which a link is slower than one core compresses text
	// or floats (0.45 to 0.5 GB/s) with some to spare for the rest that it does.
	slowLink = 350 << 20
	// lookAtLink is how often the kernel is asked how the link does.
	lookAtLink = 100 * time.Millisecond
	// leastBusy is the time that the link must have had something to carry for its rate to be judged.
	leastBusy = 20 * time.Millisecond
	// probePlaces is from how many places of a shard, or items of a frame, bytes are taken to see whether they shrink.
	probePlaces = 3
	// probeMembers is how many members of a shard are considered at each place.
	probeMembers = 8
	probeSize    = 4 << 10
)

// compressor decides, frame by frame, whether payloads are compressed.
type compressor struct {
	mode   string // a wire.Compress constant
	link   link
	blocks wire.BlockWriter
	raw    []byte // of the block being filled
}

// wanted says whether a job's payload shall be compressed.
func (s *sender) wanted(j *job) bool {
	switch s.compress.mode {
	case wire.CompressAlways:
	case wire.CompressAuto:
		if s.raw == nil || !s.compress.link.slow(time.Now(), s.tcpInfo) {
			return false
		}
	default:
		return false
	}
	return j.compressible()
}

func (s *sender) tcpInfo() (info *unix.TCPInfo, err error) {
	failed := s.raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) })
	if err == nil {
		err = failed
	}
	return info, err
}

// link judges a TCP connection by what the kernel counts of it: bytes that the peer acknowledged, and the
// time in which there was something under way, less that in which the peer had no room for it. A trainer
// that is slow is not a link that is.
type link struct {
	looked      time.Time
	acked, busy uint64
	isSlow      bool
}

// slow says whether the link carries less than the compressor makes.
func (l *link) slow(now time.Time, look func() (*unix.TCPInfo, error)) bool {
	if now.Sub(l.looked) < lookAtLink {
		return l.isSlow
	}
	l.looked = now
	info, err := look()
	if err != nil {
		return l.isSlow
	}
	busy := info.Busy_time - min(info.Rwnd_limited, info.Busy_time) // in us
	if busy < l.busy {
		l.busy = busy // it was limited by the peer since
	}
	acked, took := info.Bytes_acked-l.acked, time.Duration(busy-l.busy)*time.Microsecond
	if took < leastBusy {
		return l.isSlow
	}
	l.isSlow = float64(acked)/took.Seconds() < slowLink
	l.acked, l.busy = info.Bytes_acked, busy
	return l.isSlow
}

// compressible says whether most of a frame's bytes are of shards, or are results, that shrink.
func (j *job) compressible() bool {
	var all, good, results int64
	for i := range j.segs {
		size := j.frame.Items[i].Size
		all += size
		switch sh := j.segs[i].shard; {
		case sh == nil:
			results += size
		case sh.compressible():
			good += size
		}
	}
	if results > 0 && j.resultsShrink() {
		good += results
	}
	return 2*good > all
}

// resultsShrink probes items that are in memory, of the beginning, middle and end of the frame.
func (j *job) resultsShrink() bool {
	var pieces [probePlaces][]byte
	n := 0
	for k := range probePlaces {
		if seg := &j.segs[(len(j.segs)-1)*k/(probePlaces-1)]; seg.shard == nil {
			pieces[n] = seg.data[:min(len(seg.data), probeSize)]
			n++
		}
	}
	return wire.Compressible(pieces[:n]...)
}

// compressible probes a shard in a few places, once. Only the sender calls it.
func (sh *shard) compressible() bool {
	if sh.probed {
		return sh.shrinks
	}
	sh.probed = true
	var pieces [probePlaces][]byte
	for k := range probePlaces {
		m := sh.largestNear(sh.index.NumMembers() * k / probePlaces)
		piece := make([]byte, min(m.Size, probeSize))
		// Behind headers that formats have.
		n, err := sh.object.File().ReadAt(piece, m.Offset+(m.Size-int64(len(piece)))/2)
		if err != nil {
			return false // sending will say why
		}
		pieces[k] = piece[:n]
	}
	sh.shrinks = wire.Compressible(pieces[:]...)
	return sh.shrinks
}

// largestNear is the largest of the next few members: labels say little of what a shard's bytes are like.
func (sh *shard) largestNear(at int) archive.Member {
	best := sh.index.Member(at)
	for i := at + 1; i < min(at+probeMembers, sh.index.NumMembers()); i++ {
		if m := sh.index.Member(i); m.Size > best.Size {
			best = m
		}
	}
	return best
}

// deflate writes a job's items as compressed blocks.
func (s *sender) deflate(j *job) error {
	c := &s.compress
	if c.raw == nil {
		c.raw = make([]byte, 0, wire.BlockSize)
	}
	for i := range j.segs {
		seg, size := j.segs[i], j.frame.Items[i].Size
		for size > 0 {
			n := min(size, int64(wire.BlockSize-len(c.raw)))
			data, err := seg.bytes(n) // a block at a time: objects that are not mapped are read into memory
			if err != nil {
				return err
			}
			c.raw = append(c.raw, data[:n]...)
			seg.skip(n)
			size -= n
			if len(c.raw) == wire.BlockSize {
				if err := s.block(); err != nil {
					return err
				}
			}
		}
	}
	return s.block()
}

func (s *sender) block() error {
	if len(s.compress.raw) == 0 {
		return nil
	}
	stored := s.compress.blocks.Encode(s.compress.raw)
	s.compress.raw = s.compress.raw[:0]
	return s.write(stored)
}
