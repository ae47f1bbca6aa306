package faults

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	slowObject = 4 << 20
	// What a client may take of a target's memory, however slow it is: a reader the span that is verified at once, a writer
	// a chunk of its body and the pieces that are on their way to another target.
	slowReader = 2 << 20
	slowWriter = 3 << 20
	// idleConnections are kept by nodes for the next request to another node.
	idleConnections = 80
)

// trickle writes a request and then reads, or writes its body, at 1 kB a second until the time is up.
func trickle(addr, head string, body []byte) error {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return err
	}
	defer nc.Close()
	if err := nc.(*net.TCPConn).SetReadBuffer(16 << 10); err != nil {
		return err
	}
	if _, err := io.WriteString(nc, head); err != nil {
		return err
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for second := range slowSeconds {
		<-tick.C
		if body == nil {
			_, err = io.CopyN(io.Discard, nc, slowRate)
		} else {
			_, err = nc.Write(body[second*slowRate : (second+1)*slowRate])
		}
		if err != nil {
			return nil // cut off: it was too slow for the node
		}
	}
	return nil
}

// TestSlowClientsOfObjects: 200 clients read objects at 1 kB a second, or write some of two copies. What the target takes
// for each is bounded and others are served meanwhile; when they have gone, so has all that they held.
func TestSlowClientsOfObjects(t *testing.T) {
	c := start(t, t.TempDir(), "--targets", "2", "--disks", "1")
	_, err := c.client.CreateBucketWith(t.Context(), "slow", mirrored(2))
	require.NoError(t, err)
	body := randomBytes(1, slowObject)
	put := func(key string) {
		_, err := c.client.PutObject(t.Context(), "slow", key, bytes.NewReader(body), slowObject, api.PutOptions{})
		require.NoError(t, err)
	}
	put("object")
	var owner api.Node
	location, err := c.client.Locate(t.Context(), "slow", "object")
	require.NoError(t, err)
	for _, n := range c.status().Nodes {
		if strings.Contains(location.URL, n.Addr) {
			owner = n
		}
	}
	pid := c.pid(owner.ID)
	fds, _ := opened(t, pid)
	for method, most := range map[string]int64{"GET": slowReader, "PUT": slowWriter} {
		t.Run(method, func(t *testing.T) {
			before := anonymous(t, pid)
			gone := make(chan struct{})
			var clients sync.WaitGroup
			for i := range slowClients {
				head, content := fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", api.ObjectPath("slow", "object"), owner.Addr), []byte(nil)
				if method == "PUT" {
					path := api.ObjectPath("slow", fmt.Sprintf("put-%03d", i))
					head = fmt.Sprintf("PUT %s HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\n\r\n", path, owner.Addr, slowObject)
					content = body
				}
				clients.Go(func() {
					if err := trickle(owner.Addr, head, content); err != nil {
						t.Error(err)
					}
				})
			}
			go func() { clients.Wait(); close(gone) }()
			began := time.Now()
			put("meanwhile")
			t.Logf("a PUT beside them took %v", time.Since(began).Round(time.Millisecond))
			peak := peakOf(t, pid, gone)
			t.Logf("%d MiB before, at most %d MiB with %d slow clients", before>>20, peak>>20, slowClients)
			require.Less(t, peak-before, slowClients*most+64<<20)
		})
	}
	c.eventually("descriptors of clients that have gone are left", func() bool {
		now, _ := opened(t, pid)
		return now <= fds+idleConnections
	})
	c.eventually("half an object is left", func() bool {
		return filesBelow(t, filepath.Join(c.dir, "data", owner.ID, "disk-1", "tmp")) == 0
	})
}

// peakOf is the most memory that a process takes until something is over.
func peakOf(t *testing.T, pid int, over <-chan struct{}) (peak int64) {
	t.Helper()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		peak = max(peak, anonymous(t, pid))
		select {
		case <-tick.C:
		case <-over:
			return peak
		}
	}
}
