package main

import (
	"fmt"
	"io"
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
