// Command members reads members of archives over plain HTTP, as any program without our client
// would: from a gateway, following its redirects, over connections that stay open. It reads "PATH
// SIZE" lines from stdin, fetches ENDPOINT+PATH each, in their order, by so many workers, holds
// the size of each answer to what was asked for, and prints a line of JSON. It is no part of the
// product.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

type read struct {
	path string
	size int64
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "members:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	usage := errors.New("usage: members ENDPOINT WORKERS <READS")
	if len(args) != 2 {
		return usage
	}
	workers, err := strconv.Atoi(args[1])
	if err != nil || workers < 1 {
		return usage
	}
	var reads []read
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var r read
		if _, err := fmt.Sscan(lines.Text(), &r.path, &r.size); err != nil {
			return fmt.Errorf("%q is no read: %w", lines.Text(), err)
		}
		reads = append(reads, r)
	}
	cpu, start := cpuSeconds(), time.Now()
	total, err := readAll(args[0], reads, workers)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(map[string]any{
		"samples": len(reads),
		"bytes":   total,
		"wall_s":  time.Since(start).Seconds(),
		"cpu_s":   cpuSeconds() - cpu,
	})
}

func readAll(endpoint string, reads []read, workers int) (int64, error) {
	transport := &http.Transport{MaxIdleConnsPerHost: workers}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	var next, total atomic.Int64
	errs := make([]error, workers)
	var group sync.WaitGroup
	for w := range workers {
		group.Go(func() {
			buffer := make([]byte, 1<<20)
			for i := next.Add(1) - 1; i < int64(len(reads)); i = next.Add(1) - 1 {
				n, err := readOne(client, endpoint, reads[i], buffer)
				if err != nil {
					errs[w] = err
					return
				}
				total.Add(n)
			}
		})
	}
	group.Wait()
	return total.Load(), errors.Join(errs...)
}

// readOne reads a member to its end and throws it away.
func readOne(client *http.Client, endpoint string, r read, buffer []byte) (int64, error) {
	response, err := client.Get(endpoint + r.path)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, response.Body, buffer)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", r.path, err)
	}
	if response.StatusCode != http.StatusOK || n != r.size {
		return 0, fmt.Errorf("%s: status %d and %d bytes, not %d", r.path, response.StatusCode, n, r.size)
	}
	return n, nil
}

func cpuSeconds() float64 {
	var u unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &u)
	return float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
}
