// Command loopback measures what a plain TCP connection to this host can do: the limit that the
// benchmark's stream is held against. "serve" answers each connection's 8-byte length with that many
// bytes in 256 KiB writes; "fetch ADDR BYTES" reads them into one reused buffer of a batch's
// size, as fast as a program can, and prints a line of JSON. It carries no protocol and is no part
// of the product.
package main

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	writeSize  = 256 << 10
	bufferSize = 28 << 20 // a batch of 256 samples of 110 kB
	congestion = "cubic"  // named per socket, as the host's default may be slower on loopback
	deadline   = 2 * time.Minute
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "loopback:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == "serve":
		return serve()
	case len(args) == 3 && args[0] == "fetch":
		n, err := strconv.ParseUint(args[2], 10, 63)
		if err != nil {
			return fmt.Errorf("byte count: %w", err)
		}
		return fetch(args[1], n)
	}
	return errors.New("usage: loopback serve | fetch ADDR BYTES")
}

// serve prints its address and answers one connection after another until its stdin ends.
func serve() error {
	config := net.ListenConfig{Control: setCongestion}
	listener, err := config.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = listener.Close()
	}()
	fmt.Println(listener.Addr())
	data := touched(writeSize)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil // closed: the benchmark is over
		}
		if err := send(conn, data); err != nil {
			fmt.Fprintln(os.Stderr, "loopback: send:", err)
		}
		_ = conn.Close()
	}
}

func send(conn net.Conn, data []byte) error {
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return err
	}
	var header [8]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return err
	}
	for left := binary.LittleEndian.Uint64(header[:]); left > 0; {
		n, err := conn.Write(data[:min(left, uint64(len(data)))])
		if err != nil {
			return err
		}
		left -= uint64(n)
	}
	return nil
}

func fetch(addr string, total uint64) error {
	buffer := touched(bufferSize)
	start, cpu := time.Now(), cpuSeconds()
	dialer := net.Dialer{Control: setCongestion, Timeout: 5 * time.Second}
	conn, err := dialer.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return err
	}
	if _, err := conn.Write(binary.LittleEndian.AppendUint64(nil, total)); err != nil {
		return err
	}
	var first time.Duration // until the buffer was full once
	for got, at := uint64(0), 0; got < total; {
		n, err := conn.Read(buffer[at:])
		if err != nil {
			return fmt.Errorf("after %d of %d bytes: %w", got, total, err)
		}
		got += uint64(n)
		if at += n; at == len(buffer) || got == total {
			at = 0
			if first == 0 {
				first = time.Since(start)
			}
		}
	}
	wall := time.Since(start)
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"bytes":         total,
		"wall_s":        wall.Seconds(),
		"cpu_s":         cpuSeconds() - cpu,
		"first_batch_s": first.Seconds(),
		"rss_peak_mb":   peakRSS(),
	})
}

func setCongestion(_, _ string, raw syscall.RawConn) error {
	var inner error
	err := raw.Control(func(fd uintptr) {
		inner = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, congestion)
	})
	if err != nil {
		return err
	}
	if inner != nil {
		return fmt.Errorf("set congestion control %q: %w", congestion, inner)
	}
	return nil
}

// touched allocates memory and faults it in, so that no page fault is measured.
func touched(n int) []byte {
	b := make([]byte, n)
	for i := 0; i < n; i += 1024 {
		b[i] = byte(i)
	}
	return b
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
