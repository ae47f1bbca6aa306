package loader

import (
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// slotReserve is address space, not memory: the file behind it grows on demand, so that a slot's
	// address never changes while pullers write into it.
	slotReserve = 64 << 30
	slotAlign   = 64
	growStep    = 2 << 20 // a large page
	// maxSlots bounds what a caller can hold by never releasing batches: each takes a file and, of the
	// 128 TiB that a process can address, its reserve.
	maxSlots = 3 << 9
)

// slot is one batch's memory: a memfd, mapped once at its full reserve.
type slot struct {
	id   int
	fd   int
	mem  []byte // the reserve; only size bytes of it are backed
	size int64  // of the file
	used int64  // bump pointer of the batch under assembly
	most int64  // bytes that a batch may take
	held bool   // by the consumer

	// tainted says that a target which could not be heard out may yet write here: the memory serves no
	// other batch. Guarded by the arena's mutex.
	tainted bool
}

// alloc reserves n bytes, aligned, and grows the file where needed. The caller serialises.
func (s *slot) alloc(n int64) (int64, error) {
	off := (s.used + slotAlign - 1) &^ (slotAlign - 1)
	end := off + n
	if n < 0 || n > s.most || end > s.most {
		return 0, badRequest("a batch needs more than %d MiB; choose a smaller batch_size, or raise max_batch_bytes", s.most>>20)
	}
	if end > s.size {
		// Grow by half at least, so that a batch of growing samples costs few calls.
		size := max(end, s.size+s.size/2, growStep)
		size = min((size+growStep-1)&^(growStep-1), s.most)
		if err := unix.Ftruncate(s.fd, size); err != nil {
			return 0, fmt.Errorf("grow a batch's memory to %d bytes: %w", size, err)
		}
		s.size = size
	}
	s.used = end
	return off, nil
}

// arena owns the slots. Slots beyond base exist only because the consumer holds batches; their memory
// is given back to the system when they are released.
type arena struct {
	mu     sync.Mutex
	base   int
	most   int64 // bytes that a batch may take
	slots  []*slot
	lost   int     // slots that were tainted and given up
	free   []*slot // most recently used last: warm pages first
	closed bool
}

func newArena(base int, most int64) *arena { return &arena{base: base, most: most} }

// take returns a free slot, making one while fewer than base exist or when force is set; nil when all
// are in use.
func (a *arena) take(force bool) (*slot, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return nil, ErrClosed
	}
	if n := len(a.free); n > 0 {
		s := a.free[n-1]
		a.free = a.free[:n-1]
		s.used = 0
		return s, nil
	}
	live := len(a.slots) - a.lost
	if live >= a.base && !force {
		return nil, nil
	}
	if len(a.slots) >= maxSlots {
		return nil, tooMany(live, nil)
	}
	s, err := newSlot(len(a.slots))
	if err != nil && force {
		return nil, tooMany(live, err)
	}
	if err != nil {
		return nil, err
	}
	s.most = a.most
	a.slots = append(a.slots, s)
	return s, nil
}

// tooMany is the error where the consumer holds every batch and there is no memory for another.
func tooMany(held int, cause error) error {
	const remedy = "%d batches are still referenced; copy what you keep of a batch and drop the rest"
	if cause != nil {
		return fmt.Errorf(remedy+": %w", held, cause)
	}
	return fmt.Errorf(remedy, held)
}

func newSlot(id int) (*slot, error) {
	fd, err := unix.MemfdCreate(fmt.Sprintf("shardstream-slot-%d", id), unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("create a batch's memory: %w", err)
	}
	// A target on this machine maps it too, and must be able to rely on every page that it was shown.
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("seal a batch's memory: %w", err)
	}
	mem, err := unix.Mmap(fd, 0, slotReserve, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_NORESERVE)
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("map a batch's memory (address space limit?): %w", err)
	}
	// Large pages, where the system gives them to those who ask: first touch and address translation of a
	// fresh batch cost a third of its transfer otherwise. Without them everything works as well.
	_ = unix.Madvise(mem, unix.MADV_HUGEPAGE)
	return &slot{id: id, fd: fd, mem: mem}, nil
}

// put takes back a slot that was never handed to the consumer.
func (a *arena) put(s *slot) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.putLocked(s)
}

func (a *arena) putLocked(s *slot) {
	s.held = false
	if s.tainted {
		s.discard()
		a.lost++
		return
	}
	if len(a.free) >= a.base {
		s.discard()
	}
	a.free = append(a.free, s)
}

// discard gives a slot's pages back to the system; the file keeps its size.
func (s *slot) discard() {
	// Where that fails, the memory stays until the loader is closed.
	_ = unix.Fallocate(s.fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, s.size)
}

// taint marks a slot that a target may still write to.
func (a *arena) taint(s *slot) {
	a.mu.Lock()
	s.tainted = true
	a.mu.Unlock()
}

// hold marks a slot as the consumer's.
func (a *arena) hold(s *slot) {
	a.mu.Lock()
	s.held = true
	a.mu.Unlock()
}

// held is the number of slots that the consumer has.
func (a *arena) held() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := 0
	for _, s := range a.slots {
		if s.held {
			n++
		}
	}
	return n
}

func (a *arena) get(id int) (*slot, error) {
	if a.closed {
		return nil, ErrClosed
	}
	if id < 0 || id >= len(a.slots) || !a.slots[id].held {
		return nil, fmt.Errorf("slot %d is not held", id)
	}
	return a.slots[id], nil
}

func (a *arena) release(id int) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, err := a.get(id)
	if err != nil {
		return err
	}
	a.putLocked(s)
	return nil
}

func (a *arena) describe(id int) (int, int64, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, err := a.get(id)
	if err != nil {
		return 0, 0, err
	}
	return s.fd, s.size, nil
}

func (a *arena) view(id int) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, err := a.get(id)
	if err != nil {
		return nil, err
	}
	return s.mem[:s.size:s.size], nil
}

// close unmaps everything; no puller may run any more.
func (a *arena) close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.closed = true
	var first error
	for _, s := range a.slots {
		if err := unix.Munmap(s.mem); err != nil && first == nil {
			first = err
		}
		if err := unix.Close(s.fd); err != nil && first == nil {
			first = err
		}
	}
	a.slots, a.free = nil, nil
	return first
}
