package etl

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const (
	// arenaHalf is the size of each half of an arena: requests, then results. What has no room there goes over
	// the socket. Pages are taken as they are first used.
	arenaHalf = 64 << 20
	// arenaKept is how much of the half for requests stays in memory between chunks.
	arenaKept = 4 << 20
	arenaStep = 64 // alignment of payloads
)

// arena is the memory that a node and one worker share for large payloads. The worker may write anywhere in it at any
// time, so nothing that is read from it is believed: offsets and lengths come from frames and are checked against
// its size, and bytes are copied out once before anything depends on them. Its size is sealed, so that no
// side can make the other's access fail.
type arena struct{ mem []byte }

// newArena makes an arena; the file is for the worker.
func newArena() (*arena, *os.File, error) {
	file, mem, err := sharedMemory("shardstream-etl-arena", 2*arenaHalf, unix.PROT_READ|unix.PROT_WRITE)
	if err != nil {
		return nil, nil, err
	}
	return &arena{mem: mem}, file, nil
}

// sharedMemory makes memory of a fixed size that another process can map, and maps it here.
func sharedMemory(name string, size, protection int) (*os.File, []byte, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	if err = f.Truncate(int64(size)); err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL)
	}
	var mem []byte
	if err == nil {
		mem, err = unix.Mmap(fd, 0, size, protection, unix.MAP_SHARED)
	}
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return f, mem, nil
}

// requests is the half that the node writes.
func (a *arena) requests() []byte { return a.mem[:arenaHalf:arenaHalf] }

// results is the half that the worker writes.
func (a *arena) results() []byte { return a.mem[arenaHalf:] }

// trim gives back the pages of the first n bytes of requests but those that are kept.
func (a *arena) trim(n int) {
	if n > arenaKept {
		end := (n + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
		_ = unix.Madvise(a.mem[arenaKept:end], unix.MADV_REMOVE) // at worst they stay
	}
}

func (a *arena) close() {
	if a.mem != nil {
		_ = unix.Munmap(a.mem)
		a.mem = nil
	}
}
