// Command loopback measures what plain TCP connections to this host can do: the limit that the
// benchmark's streams are held against. "serve FILE..." answers each connection with as many bytes
// as it asks for, from one cached buffer in 256 KiB writes or from the files by sendfile(2).
// "fetch ADDR BYTES BUFFER EPOCHS" reads them into one reused buffer of a batch's size, as fast as
// a program can, a connection an epoch. It carries no protocol and is no part of the product.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	writeSize  = 256 << 10
	congestion = "cubic" // named per socket, as the host's default may be slower on loopback
	deadline   = 2 * time.Minute
	fromFiles  = 1 << 63 // a bit of the length that a connection asks for
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "loopback:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	usage := errors.New("usage: loopback serve FILE... | fetch [--files] ADDR BYTES BUFFER EPOCHS")
	if len(args) == 0 {
		return usage
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	files := flags.Bool("files", false, "have the files sent")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	switch rest := flags.Args(); {
	case args[0] == "serve" && len(rest) > 0:
		return serve(rest)
	case args[0] == "fetch" && len(rest) == 4:
		var numbers [3]uint64
		for i := range numbers {
			n, err := strconv.ParseUint(rest[i+1], 10, 62)
			if err != nil || n == 0 {
				return fmt.Errorf("%q is no positive number", rest[i+1])
			}
			numbers[i] = n
		}
		return fetch(rest[0], numbers[0], int(numbers[1]), int(numbers[2]), *files)
	}
	return usage
}

// serve prints its address and answers connections until its stdin ends.
func serve(files []string) error {
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
	for first := 0; ; first++ {
		conn, err := listener.Accept()
		if err != nil {
			return nil // closed: the benchmark is over
		}
		go func() {
			defer func() { _ = conn.Close() }()
			if err := answer(conn.(*net.TCPConn), data, files, first); err != nil {
				fmt.Fprintln(os.Stderr, "loopback: send:", err)
			}
		}()
	}
}

func answer(conn *net.TCPConn, data []byte, files []string, first int) error {
	if err := conn.SetDeadline(time.Now().Add(deadline)); err != nil {
		return err
	}
	var header [8]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return err
	}
	asked := binary.LittleEndian.Uint64(header[:])
	if asked&fromFiles == 0 {
		return sendBuffer(conn, data, int64(asked))
	}
	return sendFiles(conn, files, first, int64(asked&^fromFiles))
}

func sendBuffer(conn *net.TCPConn, data []byte, left int64) error {
	for left > 0 {
		n, err := conn.Write(data[:min(left, int64(len(data)))])
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// sendFiles sends the files one after another, from the first on and round again.
func sendFiles(conn *net.TCPConn, files []string, first int, left int64) error {
	for i := first; left > 0; i++ {
		file, err := os.Open(files[i%len(files)]) //nolint:gosec // the benchmark's own files
		if err != nil {
			return err
		}
		n, err := conn.ReadFrom(io.LimitReader(file, left)) // sendfile(2)
		_ = file.Close()
		if err != nil {
			return err
		}
		if n == 0 {
			return fmt.Errorf("%s is empty", file.Name())
		}
		left -= n
	}
	return nil
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
