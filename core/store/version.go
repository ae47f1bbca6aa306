package store

// nextVersion gives a version above all that this store has seen, near the time of day, so that
// versions rise across restarts and across nodes whose clocks are sane.
func (s *Store) nextVersion() uint64 {
	for {
		last := s.last.Load()
		next := max(uint64(s.o.Now().UnixNano()), last+1, s.floor.Load()+1) // after 1970
		if s.last.CompareAndSwap(last, next) {
			return next
		}
	}
}

// NextVersion gives out a version.
func (s *Store) NextVersion() uint64 { return s.nextVersion() }

// SetFloor has versions be given out above floor from now on. It never falls.
func (s *Store) SetFloor(floor uint64) {
	for {
		now := s.floor.Load()
		if floor <= now || s.floor.CompareAndSwap(now, floor) {
			return
		}
	}
}

// see makes sure that versions given out later are higher than one that was.
func (s *Store) see(version uint64) {
	for {
		last := s.last.Load()
		if version <= last || s.last.CompareAndSwap(last, version) {
			return
		}
	}
}
