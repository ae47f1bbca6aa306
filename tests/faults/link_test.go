package faults

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/loader"
)

// hosts are two network namespaces with a cable of a set rate between them: two machines, as far as
// addresses, sockets and congestion go.
type hosts struct {
	t      *testing.T
	server string
	client string
}

const serverIP, clientIP = "10.231.77.1", "10.231.77.2"

// twoHosts makes the namespaces, or skips where that needs rights or tools that are not there.
func twoHosts(t *testing.T, rate string) *hosts {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a cluster; -short is for what needs none")
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	for _, tool := range []string{"ip", "tc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed (Debian: apt-get install iproute2)", tool)
		}
	}
	h := &hosts{t: t, server: fmt.Sprintf("ss-%d-s", os.Getpid()), client: fmt.Sprintf("ss-%d-c", os.Getpid())}
	t.Cleanup(func() {
		for _, name := range []string{h.server, h.client} {
			_ = exec.Command("ip", "netns", "del", name).Run()
		}
	})
	if out, err := exec.Command("ip", "netns", "add", h.server).CombinedOutput(); err != nil {
		t.Skipf("no network namespaces here: %v: %s", err, out)
	}
	for _, line := range []string{
		"ip netns add " + h.client,
		"ip -n " + h.server + " link add s0 type veth peer name c0 netns " + h.client,
		"ip -n " + h.server + " addr add " + serverIP + "/24 dev s0",
		"ip -n " + h.client + " addr add " + clientIP + "/24 dev c0",
		"ip -n " + h.server + " link set s0 up",
		"ip -n " + h.client + " link set c0 up",
		"ip -n " + h.server + " link set lo up",
	} {
		h.must(strings.Fields(line)...)
	}
	limit := "tc -n " + h.server + " qdisc add dev s0 root tbf rate " + rate + " burst 256kb latency 50ms"
	if out, err := exec.Command("tc", strings.Fields(limit)[1:]...).CombinedOutput(); err != nil {
		t.Skipf("this kernel can't slow a link down: %v: %s", err, out)
	}
	return h
}

func (h *hosts) must(command ...string) []byte {
	h.t.Helper()
	c := exec.Command(command[0], command[1:]...)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	require.NoError(h.t, err, "%s: %s%s", strings.Join(command, " "), out, errs.Bytes())
	return out
}

// node starts a node on the server's side; it ends with the test.
func (h *hosts) node(dir string, port int, args ...string) {
	h.t.Helper()
	c := exec.Command("ip", append([]string{
		"netns", "exec", h.server, program, "node", "run", "--insecure",
		"--listen", fmt.Sprintf("%s:%d", serverIP, port), "--data", filepath.Join(h.t.TempDir(), dir),
	}, args...)...)
	log, err := os.Create(filepath.Join(h.t.TempDir(), dir+".log"))
	require.NoError(h.t, err)
	c.Stdout, c.Stderr = log, log
	require.NoError(h.t, c.Start())
	h.t.Cleanup(func() {
		_ = c.Process.Signal(syscall.SIGTERM) // `ip netns exec` has become the node
		_ = c.Wait()
		if content, err := os.ReadFile(log.Name()); err == nil && h.t.Failed() {
			h.t.Logf("--- %s\n%s", dir, content)
		}
		_ = log.Close()
	})
}

func (h *hosts) run(side string, args ...string) []byte {
	h.t.Helper()
	return h.must(append([]string{"ip", "netns", "exec", side, program, "--endpoint", "http://" + serverIP + ":7070"}, args...)...)
}

// TestSlowLinkCarriesCompressedBytes: between machines, over a link that is slower than the compressor,
// text travels compressed and photos do not.
func TestSlowLinkCarriesCompressedBytes(t *testing.T) {
	h := twoHosts(t, "400mbit")
	h.node("gateway", 7070, "--role", "gateway", "--id", "gateway-1")
	c := &cluster{t: t}
	var token []byte
	c.eventually("the gateway did not come up", func() bool {
		var err error
		token, err = exec.Command("ip", "netns", "exec", h.server, program, "--endpoint", "http://"+serverIP+":7070", "node", "token").Output()
		return err == nil
	})
	h.node("target", 7071, "--role", "target", "--id", "target-1", "--join", "http://"+serverIP+":7070", "--token", string(bytes.TrimSpace(token)))
	c.eventually("the cluster did not come up", func() bool {
		out, _ := exec.Command("ip", "netns", "exec", h.server, program, "--endpoint", "http://"+serverIP+":7070", "status", "--json").Output()
		return bytes.Contains(out, []byte(`"target-1"`)) && !bytes.Contains(out, []byte(`"down"`))
	})
	dir := t.TempDir()
	writeShard(t, filepath.Join(dir, "text.tar"), 400, func(i int) []byte {
		return bytes.Repeat([]byte(fmt.Sprintf("what sample %d of this shard has to say, and more; ", i)), 2000)
	})
	random := seeded(t)
	writeShard(t, filepath.Join(dir, "photo.tar"), 100, func(int) []byte {
		photo := make([]byte, 100_000)
		for i := range photo {
			photo[i] = byte(random.Uint32())
		}
		return photo
	})
	h.run(h.server, "bucket", "create", "b")
	h.run(h.server, "put", filepath.Join(dir, "text.tar"), filepath.Join(dir, "photo.tar"), "ss://b/")

	text := h.stream("ss://b/text.tar")
	require.Equal(t, loader.TransportTCP, text.Targets["target-1"].Transport, "memory is not shared between machines")
	require.Positive(t, text.Targets["target-1"].CompressedFrom)
	require.Less(t, 4*text.Targets["target-1"].CompressedTo, text.Targets["target-1"].CompressedFrom)
	photo := h.stream("ss://b/photo.tar")
	require.Zero(t, photo.Targets["target-1"].CompressedFrom)
}

type streamed struct {
	Samples int64                         `json:"samples"`
	Targets map[string]loader.TargetStats `json:"targets"`
}

// stream reads some epochs on the client's side.
func (h *hosts) stream(source string) streamed {
	h.t.Helper()
	var report struct {
		Epochs []streamed `json:"epochs"`
	}
	out := h.run(h.client, "stream", source, "--batch-size", "16", "--epochs", "2", "--json")
	require.NoError(h.t, json.Unmarshal(out, &report))
	require.Len(h.t, report.Epochs, 2)
	return report.Epochs[1]
}

func writeShard(t *testing.T, path string, n int, content func(i int) []byte) {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for i := range n {
		body := content(i)
		require.NoError(t, w.WriteHeader(&tar.Header{Name: fmt.Sprintf("%06d.bin", i), Mode: 0o644, Size: int64(len(body)), ModTime: time.Unix(0, 0)}))
		_, err := w.Write(body)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	require.NoError(t, os.WriteFile(path, buf.Bytes(), 0o600))
}
