package node

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/core/backend"
)

// Settings are the times, rates and bounds of a node's own work. All nodes of a cluster are to have the same; the file for them
// is YAML, with these names. What is zero gets its default.
type Settings struct {
	// LeaseTTL is how long a node that stopped answering is still taken for alive: whole seconds.
	LeaseTTL time.Duration `yaml:"lease_ttl"`
	// HealAfter is how long a target that is away is waited for before its copies are made anew elsewhere.
	HealAfter time.Duration `yaml:"heal_after"`
	// DeleteGrace is how long a copy that is known to be safe where it belongs stays where it does not.
	DeleteGrace time.Duration `yaml:"delete_grace"`
	// TombstoneGrace is how long a deletion is remembered at least.
	TombstoneGrace time.Duration `yaml:"tombstone_grace"`
	// StrayGrace is how old a file must be that belongs to no object before it is removed.
	StrayGrace time.Duration `yaml:"stray_grace"`
	// ScrubEvery is how often all data is read and verified; negative: never of itself.
	ScrubEvery time.Duration `yaml:"scrub_every"`
	// ScrubRate and RebalanceRate are bytes a second of one target; negative: no limit but what others leave.
	ScrubRate     Bytes `yaml:"scrub_rate"`
	RebalanceRate Bytes `yaml:"rebalance_rate"`
	// ProbeEvery is how often each disk is tried, ProbeTimeout how long it may take to answer before it is out of use.
	ProbeEvery   time.Duration `yaml:"probe_every"`
	ProbeTimeout time.Duration `yaml:"probe_timeout"`
	// CacheHigh is how much of a disk may be in use, in percent, before cached objects of buckets with backends are evicted
	// from it, and CacheLow until how much is.
	CacheHigh float64 `yaml:"cache_high"`
	CacheLow  float64 `yaml:"cache_low"`
	// CommitTimeout is how long a write waits for another target to take over its copy.
	CommitTimeout time.Duration `yaml:"commit_timeout"`
	// BackendAllow are networks ("10.0.0.0/8") and addresses that backends of buckets may be at besides the internet's: see
	// backend.Guard.
	BackendAllow []string `yaml:"backend_allow"`
}

// DefaultSettings are those of a node that is told nothing else.
func DefaultSettings() Settings {
	return Settings{
		LeaseTTL:       membership.DefaultLeaseTTL,
		HealAfter:      10 * time.Second,
		DeleteGrace:    time.Minute,
		TombstoneGrace: time.Hour,
		StrayGrace:     time.Hour,
		ScrubEvery:     7 * 24 * time.Hour,
		ScrubRate:      64 << 20,
		RebalanceRate:  -1,
		ProbeEvery:     5 * time.Second,
		ProbeTimeout:   20 * time.Second,
		CacheHigh:      90,
		CacheLow:       85,
		CommitTimeout:  10 * time.Second,
	}
}

// ReadSettings reads a file of settings. A name that is not known is an error: it may be another's misspelt.
func ReadSettings(path string) (Settings, error) {
	content, err := os.ReadFile(path)
	if err != nil {
		return Settings{}, fmt.Errorf("read the configuration: %w", err)
	}
	var s Settings
	decoder := yaml.NewDecoder(bytes.NewReader(content))
	decoder.KnownFields(true)
	if err := decoder.Decode(&s); err != nil && !errors.Is(err, io.EOF) {
		return s, fmt.Errorf("configuration %s: %w", path, err)
	}
	if err := s.check(); err != nil {
		return s, fmt.Errorf("configuration %s: %w", path, err)
	}
	return s, nil
}

// check lists all faults at once.
func (s *Settings) check() error {
	var faults []error
	if s.LeaseTTL < 0 || s.LeaseTTL%time.Second != 0 {
		faults = append(faults, fmt.Errorf("lease_ttl %v is not a number of whole seconds", s.LeaseTTL))
	}
	for name, d := range map[string]time.Duration{
		"heal_after": s.HealAfter, "delete_grace": s.DeleteGrace, "tombstone_grace": s.TombstoneGrace,
		"stray_grace": s.StrayGrace, "probe_every": s.ProbeEvery, "probe_timeout": s.ProbeTimeout, "commit_timeout": s.CommitTimeout,
	} {
		if d < 0 {
			faults = append(faults, fmt.Errorf("%s %v is negative", name, d))
		}
	}
	if _, err := backend.ParseAllow(s.BackendAllow); err != nil {
		faults = append(faults, err)
	}
	high, low := cmp.Or(s.CacheHigh, DefaultSettings().CacheHigh), cmp.Or(s.CacheLow, DefaultSettings().CacheLow)
	if !(low > 0 && low <= high && high <= 100) { // NaN is neither
		faults = append(faults, fmt.Errorf("cache_high %v and cache_low %v are percents, and low is not above high", high, low))
	}
	return errors.Join(faults...)
}

// Complete is the settings with defaults for what is zero.
func (s Settings) Complete() Settings {
	d := DefaultSettings()
	for _, field := range []struct{ value, otherwise *time.Duration }{
		{&s.LeaseTTL, &d.LeaseTTL},
		{&s.HealAfter, &d.HealAfter},
		{&s.DeleteGrace, &d.DeleteGrace},
		{&s.TombstoneGrace, &d.TombstoneGrace},
		{&s.StrayGrace, &d.StrayGrace},
		{&s.ScrubEvery, &d.ScrubEvery},
		{&s.CommitTimeout, &d.CommitTimeout},
		{&s.ProbeEvery, &d.ProbeEvery},
		{&s.ProbeTimeout, &d.ProbeTimeout},
	} {
		if *field.value == 0 {
			*field.value = *field.otherwise
		}
	}
	s.CacheHigh, s.CacheLow = cmp.Or(s.CacheHigh, d.CacheHigh), cmp.Or(s.CacheLow, d.CacheLow)
	if s.ScrubRate == 0 {
		s.ScrubRate = d.ScrubRate
	}
	if s.RebalanceRate == 0 {
		s.RebalanceRate = d.RebalanceRate
	}
	return s
}

// Bytes is a number of bytes, written with a unit of a power of 1024 (KiB, MiB, ...) or of 1000 (kB, MB, ...).
type Bytes int64

var byteUnits = map[string]float64{
	"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
}

// ParseBytes reads "4GiB".
func ParseBytes(s string) (Bytes, error) {
	number := strings.TrimRight(s, "kKmMgGtTiIbB ")
	unit, known := byteUnits[strings.ToLower(strings.TrimSpace(s[len(number):]))]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || !(n*unit >= 1 && n*unit < math.MaxInt64) { // NaN is neither
		return 0, fmt.Errorf("%q is not a size, such as 512MiB or 4GiB", s)
	}
	return Bytes(n * unit), nil
}

// UnmarshalYAML reads "64MiB", or -1 for no limit.
func (b *Bytes) UnmarshalYAML(value *yaml.Node) (err error) {
	if value.Value == "-1" {
		*b = -1
		return nil
	}
	*b, err = ParseBytes(value.Value)
	return err
}
