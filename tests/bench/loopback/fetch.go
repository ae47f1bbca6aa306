package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// epoch is what passes.py prints of a loader, too.
type epoch struct {
	Start   float64 `json:"start"`
	First   float64 `json:"first"` // when the buffer was full once
	Last    float64 `json:"last"`
	End     float64 `json:"end"`
	CPU     float64 `json:"cpu_s"`
	Samples uint64  `json:"samples"`
	Bytes   uint64  `json:"bytes"`
}

// fetch says "ready", waits for a line, and prints its epochs as JSON.
func fetch(addr string, total uint64, size, epochs int, files bool) error {
	buffer := touched(size)
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	done := make([]epoch, epochs)
	for i := range done {
		if err := done[i].read(addr, total, buffer, files); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"epochs": done, "rss_peak_mb": peakRSS()})
}

func (e *epoch) read(addr string, total uint64, buffer []byte, files bool) error {
	cpu := cpuSeconds()
	e.Start = monotonic()
	dialer := net.Dialer{Control: setCongestion, Timeout: 5 * time.Second}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return err
	}
	ask := total
	if files {
		ask |= fromFiles
	}
	if _, err := conn.Write(binary.LittleEndian.AppendUint64(nil, ask)); err != nil {
		return err
	}
	for at := 0; e.Bytes < total; {
		n, err := conn.Read(buffer[at:])
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", e.Bytes, total, err)
		}
		e.Bytes += uint64(n)
		if at += n; at == len(buffer) || e.Bytes == total {
			at = 0
			e.Last = monotonic()
			if e.First == 0 {
				e.First = e.Last
			}
		}
	}
	e.End, e.CPU = monotonic(), cpuSeconds()-cpu
	return nil
}

// monotonic is the clock that all processes of a machine share.
func monotonic() float64 {
	var t unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &t)
	return float64(t.Nano()) / 1e9
}

func cpuSeconds() float64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}

// peakRSS is this program's, in MB; ru_maxrss would count what its parent had before the exec, too.
func peakRSS() float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	var kib float64
	_, _ = fmt.Sscan(after, &kib)
	return kib * 1024 / 1e6
}
