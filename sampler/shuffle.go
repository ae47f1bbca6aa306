package sampler

import "fmt"

// Mode says how far a shuffle reaches.
type Mode uint8

const (
	// Global permutes all samples; each is read by itself.
	Global Mode = iota
	// Window permutes slices of shards, then samples across a window of slices: for storage that is
	// slow at small random reads.
	Window
	// Shards permutes the shards and keeps the samples of each in order.
	Shards
	// None keeps the order of the snapshot.
	None
)

var modeNames = [...]string{Global: "global", Window: "window", Shards: "shards", None: "none"}

// ParseMode reads a mode's name: "global", "window", "shards" or "none".
func ParseMode(s string) (Mode, error) {
	for m, name := range modeNames {
		if s == name {
			return Mode(m), nil
		}
	}
	return 0, fmt.Errorf(`sampler: unknown shuffle %q, expected "global", "window", "shards" or "none"`, s)
}

func (m Mode) String() string {
	if int(m) < len(modeNames) {
		return modeNames[m]
	}
	return fmt.Sprintf("Mode(%d)", uint8(m))
}

// Settings of the windowed mode where a Shuffle leaves them 0, and their upper limits.
const (
	DefaultSlices = 4
	DefaultWindow = 64
	MaxSlices     = 1 << 10
	MaxWindow     = 1 << 20
)

// Shuffle says how an epoch is ordered. Slices and Window count in the windowed mode only.
type Shuffle struct {
	Mode   Mode
	Seed   uint64
	Slices int // equal parts that a shard is cut into; 0 is DefaultSlices
	Window int // slices that are mixed with each other; 0 is DefaultWindow
}

// Validate says what is wrong with a shuffle.
func (s Shuffle) Validate() error {
	switch {
	case int(s.Mode) >= len(modeNames):
		return fmt.Errorf("sampler: unknown shuffle mode %d", uint8(s.Mode))
	case s.Slices < 0 || s.Slices > MaxSlices:
		return fmt.Errorf("sampler: %d slices per shard, 1 to %d are possible", s.Slices, MaxSlices)
	case s.Window < 0 || s.Window > MaxWindow:
		return fmt.Errorf("sampler: a window of %d slices, 1 to %d are possible", s.Window, MaxWindow)
	}
	return nil
}

func (s Shuffle) withDefaults() Shuffle {
	if s.Slices == 0 {
		s.Slices = DefaultSlices
	}
	if s.Window == 0 {
		s.Window = DefaultWindow
	}
	return s
}
