package main

import (
	"fmt"
	"io"
	"math"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

const progressInterval = 100 * time.Millisecond

// size prints bytes for people.
func size(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, suffix := float64(n), 0
	for value >= unit && suffix < 6 {
		value /= unit
		suffix++
	}
	return fmt.Sprintf("%.1f %ciB", value, " KMGTPE"[suffix])
}

// rate prints bytes per second.
func rate(n int64, took time.Duration) string {
	return size(int64(float64(n)/max(took.Seconds(), 1e-9))) + "/s"
}

// table prints aligned columns.
func (a *app) table(header string, rows func(w io.Writer)) error {
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, header)
	rows(w)
	return w.Flush()
}

// sizeValue is a flag of bytes: a number with a unit of a power of 1024 (KiB, MiB, ...) or of 1000 (kB, MB, ...).
type sizeValue int64

var sizeUnits = map[string]float64{
	"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40,
	"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40, "kb": 1e3, "mb": 1e6, "gb": 1e9, "tb": 1e12,
}

// String is the size in bytes, "" where it is not set.
func (v *sizeValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*v), 10)
}

// Set reads "4GiB".
func (v *sizeValue) Set(s string) error {
	number := strings.TrimRight(s, "kKmMgGtTiIbB ")
	unit, known := sizeUnits[strings.ToLower(strings.TrimSpace(s[len(number):]))]
	n, err := strconv.ParseFloat(number, 64)
	if err != nil || !known || !(n*unit >= 1 && n*unit < math.MaxInt64) { // NaN is neither
		return fmt.Errorf("%q is not a size, such as 512MiB or 4GiB", s)
	}
	*v = sizeValue(n * unit)
	return nil
}

// Type names the value in the help.
func (v *sizeValue) Type() string { return "size" }

// quotaValue is a flag of bytes of which there may be none: 0 is kept as -1, since 0 is the default, whatever that is.
type quotaValue int64

// String is the size in bytes, "" where it is not set.
func (v *quotaValue) String() string {
	if *v < 0 {
		return "0"
	}
	return (*sizeValue)(v).String()
}

// Set reads "4GiB" or "0".
func (v *quotaValue) Set(s string) error {
	if s == "0" {
		*v = -1
		return nil
	}
	return (*sizeValue)(v).Set(s)
}

// Type names the value in the help.
func (v *quotaValue) Type() string { return "size" }
