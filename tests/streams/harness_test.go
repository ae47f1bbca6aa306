// Package streams_test runs loaders against real stream servers over real stores and sockets, without
// a control plane, so that connections can be cut and bytes flipped at exact places.
package streams_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/stream"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/core/wire"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/loader"
	"github.com/shardstream/shardstream/sampler"
	"github.com/shardstream/shardstream/tests/arena"
)

// target is a store with a stream server on a loopback port and on the machine's own socket.
type target struct {
	id     string
	store  *store.Store
	dir    string
	srv    *stream.Server
	http   *httptest.Server
	local  *http.Server
	pools  *pools
	ended  <-chan struct{} // with the test
	socket string          // for clients of this machine

	mu    sync.Mutex
	wrap  func(net.Conn) net.Conn // around the connections of streams
	down  bool                    // stopped, until start
	conns map[net.Conn]struct{}   // of the streams under way
	// opened are the requests of all streams so far.
	opened []wire.ReadRequest
	// rogue answers streams over the machine's own socket in the target's place.
	rogue func(*net.UnixConn, wire.ReadRequest)
}

// cluster is targets with shards dealt to them in turn, and the part of the gateway that a loader needs.
type cluster struct {
	t       testing.TB
	id      string
	pid     int // that the map says
	etl     int64
	targets []*target
	snap    *sampler.Snapshot
	shards  []sampler.Shard
	maxItem int64
	mixture *api.MixtureInfo // what a gateway would make of the description of a mixture

	mu        sync.Mutex  // of targets too, once loaders run
	onRefresh func()      // called when a loader asks for the map
	placer    *api.Placer // of mirrored shards; nil: each shard is sent by whoever has it (see mirror_test.go)
}

// pools are a target's transformations; tests replace them between streams.
type pools struct{ byName sync.Map }

func (p *pools) Runtime(name string) (etl.Runtime, error) {
	if pool, ok := p.byName.Load(name); ok {
		return pool.(etl.Runtime), nil
	}
	return nil, api.Errorf(404, api.CodeNoETL, "no etl %q", name)
}

type meter struct{}

func (meter) Sent(int64, int64) {}
func (meter) Failed(string)     {}
func (meter) Close()            {}

func newCluster(t testing.TB, targets int) *cluster {
	t.Helper()
	c := &cluster{t: t, pid: os.Getpid(), id: fmt.Sprintf("%s-%d", t.Name(), rand.Uint64())}
	for range targets {
		c.join()
	}
	return c
}

// join adds an empty target.
func (c *cluster) join() *target {
	t := c.t
	t.Helper()
	tg := &target{
		id: fmt.Sprintf("target-%d", len(c.targets)+1), dir: t.TempDir(), pools: &pools{}, conns: map[net.Conn]struct{}{}, ended: t.Context().Done(),
	}
	tg.socket = api.LocalSocket(c.id, tg.id)
	var err error
	tg.store, err = store.Open(store.Options{Disks: []store.Disk{{ID: "disk-1", Path: tg.dir, Weight: 1}}})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, tg.store.Close()) })
	snaps, err := stream.NewSnapshots(t.TempDir(), func(context.Context, string) ([]byte, error) {
		return nil, api.Errorf(404, api.CodeNoSnapshot, "nobody has it")
	})
	require.NoError(t, err)
	tg.srv = &stream.Server{Node: tg.id, Objects: tg.store, ETLs: tg.pools, Snapshots: snaps, Meter: func() stream.Meter { return meter{} }}
	require.NoError(t, tg.listen())
	t.Cleanup(tg.stop)
	c.targets = append(c.targets, tg)
	return tg
}

func (tg *target) addr() string {
	tg.mu.Lock()
	defer tg.mu.Unlock()
	return tg.http.Listener.Addr().String()
}

func (tg *target) listen() error {
	local, err := net.Listen("unix", tg.socket)
	if err != nil {
		return err
	}
	tg.local = &http.Server{Handler: tg, ReadHeaderTimeout: patience}
	go func(s *http.Server) { _ = s.Serve(local) }(tg.local) // ends with Close
	tg.http = httptest.NewServer(tg)
	return nil
}

// stop ends the target as the end of its process does: nobody listens, and every stream is cut where it is.
func (tg *target) stop() {
	tg.mu.Lock()
	defer tg.mu.Unlock()
	if tg.down {
		return
	}
	tg.down = true
	_ = tg.http.Listener.Close()
	_ = tg.local.Close()
	for nc := range tg.conns {
		_ = nc.Close()
	}
}

// start brings a stopped target back, with its store and at another address.
func (tg *target) start() {
	tg.mu.Lock()
	defer tg.mu.Unlock()
	if tg.down && tg.listen() == nil {
		tg.down = false
	}
}

// track counts a stream's connection among those that stop cuts.
func (tg *target) track(nc net.Conn) {
	tg.mu.Lock()
	defer tg.mu.Unlock()
	if tg.down {
		_ = nc.Close()
	}
	tg.conns[nc] = struct{}{}
}

func (tg *target) untrack(nc net.Conn) {
	tg.mu.Lock()
	delete(tg.conns, nc)
	tg.mu.Unlock()
	_ = nc.Close()
}

// ServeHTTP upgrades /v1/streams/{id}/read.
func (tg *target) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	id := strings.Split(r.URL.Path, "/")[3]
	var req wire.ReadRequest
	err := json.NewDecoder(r.Body).Decode(&req)
	var reader *stream.Reader
	if err == nil {
		reader, err = tg.srv.Open(r.Context(), id, req)
	}
	if err != nil {
		var ae *api.Error
		if !errors.As(err, &ae) {
			ae = api.Errorf(500, api.CodeInternal, "%v", err)
		}
		w.WriteHeader(ae.Status)
		_, _ = w.Write(api.MarshalError(ae))
		return
	}
	nc, _, err := w.(http.Hijacker).Hijack()
	if err != nil {
		reader.Close()
		return
	}
	defer tg.untrack(nc) // not as it is wrapped below
	_, _ = io.WriteString(nc, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+api.StreamProtocol+"\r\n\r\n")
	tg.track(nc)
	tg.mu.Lock()
	wrap, rogue := tg.wrap, tg.rogue
	tg.opened = append(tg.opened, req)
	tg.mu.Unlock()
	if uc, ok := nc.(*net.UnixConn); ok && rogue != nil {
		reader.Close()
		rogue(uc, req)
		<-tg.ended
		return
	}
	if wrap != nil {
		nc = wrap(nc)
	}
	_ = reader.Run(context.Background(), nc)
}

func (tg *target) setWrap(wrap func(net.Conn) net.Conn) {
	tg.mu.Lock()
	tg.wrap = wrap
	tg.mu.Unlock()
}

// streams counts the streams of an epoch that were opened, on all targets.
func (c *cluster) streams(epoch uint64) (n int) {
	for _, tg := range c.targets {
		tg.mu.Lock()
		for i := range tg.opened {
			if tg.opened[i].Epoch == epoch {
				n++
			}
		}
		tg.mu.Unlock()
	}
	return n
}

func (tg *target) setRogue(rogue func(*net.UnixConn, wire.ReadRequest)) {
	tg.mu.Lock()
	tg.rogue = rogue
	tg.mu.Unlock()
}

// dialShared opens a stream of the first target by hand, over the machine's own socket.
func (c *cluster) dialShared(t *testing.T, req wire.ReadRequest) *net.UnixConn {
	t.Helper()
	nc, err := net.Dial("unix", api.LocalSocket(c.id, c.targets[0].id))
	require.NoError(t, err)
	t.Cleanup(func() { _ = nc.Close() })
	require.NoError(t, nc.SetDeadline(time.Now().Add(patience)))
	body, err := json.Marshal(req)
	require.NoError(t, err)
	hr, err := http.NewRequest(http.MethodPost, "http://target/v1/streams/"+c.snap.ID()+"/read", bytes.NewReader(body))
	require.NoError(t, err)
	require.NoError(t, hr.Write(nc))
	const answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: " + api.StreamProtocol + "\r\n\r\n"
	got := make([]byte, len(answer))
	_, err = io.ReadFull(nc, got)
	require.NoError(t, err)
	require.Equal(t, answer, string(got))
	return nc.(*net.UnixConn)
}

func readFrame(t *testing.T, r io.Reader) (wire.Header, []byte) {
	t.Helper()
	fixed := make([]byte, wire.HeaderSize)
	_, err := io.ReadFull(r, fixed)
	require.NoError(t, err)
	h, err := wire.ParseHeader(fixed)
	require.NoError(t, err)
	head := make([]byte, h.Head)
	_, err = io.ReadFull(r, head)
	require.NoError(t, err)
	return h, head
}

// put stores a shard on the next target in turn.
func (c *cluster) put(name string, data []byte) store.Info {
	c.t.Helper()
	tg := c.targets[len(c.shards)%len(c.targets)]
	info, err := tg.store.Put(c.t.Context(), "b", name, bytes.NewReader(data), store.PutOptions{Size: int64(len(data)), Archive: archive.FormatOf(name)})
	require.NoError(c.t, err)
	c.shards = append(c.shards, sampler.Shard{Name: "b/" + name, Version: info.Version, Samples: info.Samples})
	c.maxItem = max(c.maxItem, info.MaxSample)
	return info
}

// seal makes the snapshot and gives it to every target.
func (c *cluster) seal() {
	c.t.Helper()
	var err error
	c.snap, err = sampler.NewSnapshot(c.shards)
	require.NoError(c.t, err)
	data, err := c.snap.MarshalBinary()
	require.NoError(c.t, err)
	for _, tg := range c.targets {
		require.NoError(c.t, tg.srv.Snapshots.Put(c.snap.ID(), data))
	}
}

func (c *cluster) nodes() api.Map {
	c.mu.Lock()
	defer c.mu.Unlock()
	m := api.Map{Version: 1, Cluster: c.id}
	if c.placer != nil {
		m.Version, m.Since, m.Former = c.placer.Map.Version, c.placer.Map.Since, c.placer.Map.Former
	}
	for _, tg := range c.targets {
		n := api.Node{ID: tg.id, Role: api.RoleTarget, State: api.StateOK, Addr: tg.addr(), PID: c.pid, Weight: 1}
		if c.placer != nil {
			in, _ := c.placer.Node(tg.id)
			n.Away = in.Away
		}
		m.Nodes = append(m.Nodes, n)
	}
	return m
}

func (c *cluster) OpenStream(context.Context, api.StreamRequest) (api.StreamInfo, error) {
	info := api.StreamInfo{Snapshot: c.snap.ID(), Samples: c.snap.Samples(), Shards: int64(c.snap.NumShards()), ETLVersion: c.etl, Map: c.nodes()}
	if c.mixture != nil {
		info.Mixture, info.Samples = c.mixture, 0
		for _, p := range c.mixture.Parts {
			info.Samples += p.Draws
		}
	}
	return info, nil
}

func (c *cluster) RefreshMap(context.Context) (*api.Placer, error) {
	c.mu.Lock()
	hook := c.onRefresh
	c.mu.Unlock()
	if hook != nil {
		hook()
	}
	return &api.Placer{Map: c.nodes()}, nil
}

// makeShard packs samples n of sizes around mean as KEY.jpg and KEY.cls, reproducibly.
func makeShard(t testing.TB, shard, n, mean int) []byte {
	t.Helper()
	rng := rand.New(rand.NewPCG(7, uint64(shard)))
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range n {
		size := mean/2 + rng.IntN(mean)
		body := make([]byte, size, size+8)
		for at := 0; at+8 <= size; at += 8 {
			binary.LittleEndian.PutUint64(body[at:], rng.Uint64())
		}
		key := keyOf(shard, i)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: key + ".jpg", Mode: 0o644, Size: int64(size), Format: tar.FormatUSTAR}))
		_, _ = w.Write(body)
		cls := fmt.Sprintf("%d", (shard*n+i)%1000)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: key + ".cls", Mode: 0o644, Size: int64(len(cls)), Format: tar.FormatUSTAR}))
		_, _ = w.Write([]byte(cls))
	}
	require.NoError(t, w.Close())
	return buf.Bytes()
}

func keyOf(shard, i int) string { return fmt.Sprintf("s%03d/%06d", shard, i) }

// fill stores shards of a size each.
func (c *cluster) fill(shards, samples, mean int) *cluster {
	c.t.Helper()
	for s := range shards {
		c.put(fmt.Sprintf("train-%04d.tar", s), makeShard(c.t, s, samples, mean))
	}
	c.seal()
	return c
}

// drain iterates to the end and returns every batch.
func drain(t testing.TB, l *loader.Loader) ([]arena.Batch, error) {
	t.Helper()
	var out []arena.Batch
	for {
		v, err := next(t, l)
		if errors.Is(err, loader.ErrEnd) {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		out = append(out, v)
	}
}
