package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/shardstream/shardstream/cluster/node"
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

// String is the size in bytes, "" where it is not set.
func (v *sizeValue) String() string {
	if *v == 0 {
		return ""
	}
	return strconv.FormatInt(int64(*v), 10)
}

// Set reads "4GiB".
func (v *sizeValue) Set(s string) error {
	n, err := node.ParseBytes(s)
	if err == nil {
		*v = sizeValue(n)
	}
	return err
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

// printLine prints a document as one line of JSON.
func (a *app) printLine(document any) error {
	encoder := json.NewEncoder(a.out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(document)
}
