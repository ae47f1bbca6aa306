package backends

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/tests/backends/faultproxy"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

// program is the shardstream binary, which is built once, or the one in SHARDSTREAM_BINARY.
var program = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("SHARDSTREAM_BINARY"); path != "" {
		return path, nil
	}
	path := filepath.Join(serverstest.Folder(), "shardstream")
	out, err := exec.Command("go", "build", "-o", path, "github.com/shardstream/shardstream/cmd/shardstream").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build: %w\n%s", err, out)
	}
	return path, nil
})

// processes is a local cluster of real processes.
type processes struct {
	t      *testing.T
	dir    string
	client *api.Client
}

func startProcesses(t *testing.T) *processes {
	t.Helper()
	p := &processes{t: t, dir: t.TempDir()}
	var report struct {
		Endpoint string `json:"endpoint"`
	}
	out := p.run("up", "--detach", "--json", "--port", "0", "--dir", p.dir, "--targets", "1", "--backend-allow", "127.0.0.0/8")
	require.NoError(t, json.Unmarshal(out, &report))
	t.Cleanup(func() { p.run("down", "--dir", p.dir) })
	var err error
	p.client, err = api.NewClient(api.Options{Endpoint: report.Endpoint})
	require.NoError(t, err)
	t.Cleanup(p.client.Close)
	return p
}

func (p *processes) run(args ...string) []byte {
	p.t.Helper()
	path, err := program()
	require.NoError(p.t, err)
	command := exec.Command(path, args...)
	var errs bytes.Buffer
	command.Stderr = &errs
	out, err := command.Output()
	require.NoError(p.t, err, "shardstream %s: %s%s", strings.Join(args, " "), out, errs.Bytes())
	return out
}

// pid is the target's process; 0 while it is being started again.
func (p *processes) pid() int {
	content, err := os.ReadFile(filepath.Join(p.dir, "run", "target-1.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	require.NoError(p.t, err)
	return pid
}

func (p *processes) await(what string, holds func() bool) {
	p.t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(10 * time.Millisecond) {
		require.True(p.t, time.Now().Before(deadline), "not within %v: %s", patience, what)
	}
}

// TestKillInAColdFetch kills the target at random points of fetches: nothing partial is ever served, by it or by what comes
// after it, and the next read completes. SEED=n makes the same choices again.
func TestKillInAColdFetch(t *testing.T) {
	if testing.Short() {
		t.Skip("runs a cluster; -short is for what needs none")
	}
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("SEED"); given != "" {
		var err error
		seed, err = strconv.ParseUint(given, 10, 64)
		require.NoError(t, err)
	}
	t.Logf("SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))

	origin := serverstest.Get(t, backend.S3).Bucket(t)
	p := startProcesses(t)
	of := origin.Server.Backend(origin.Name, "")
	_, err := p.client.PutSecret(t.Context(), of.Secret, origin.Server.Secret())
	require.NoError(t, err)
	_, err = p.client.CreateBucketWith(t.Context(), "cold", api.BucketChange{Backend: of})
	require.NoError(t, err)
	c := &cold{stage: &stage{}, Bucket: origin, t: t, bucket: "cold", client: p.client}

	const rounds, size = 6, 6 << 20
	objects := map[string][]byte{}
	for round := range rounds {
		name := fmt.Sprintf("%d.bin", round)
		objects[name] = bytesOf(uint64(round), size)
		origin.Put(name, objects[name])
		origin.Server.Heal()
		origin.Server.HTTP.Add(faultproxy.Rule{Rate: 16 << 20})
		var readers sync.WaitGroup
		for range 3 {
			readers.Go(func() {
				if got, err := c.get(name, api.GetOptions{}); err == nil && !bytes.Equal(objects[name], got) {
					t.Errorf("%s: %d bytes that are not the object's were taken for it", name, len(got))
				}
			})
		}
		at := random.Int64N(size)
		p.await("the fetch gets there", func() bool { return origin.Server.HTTP.Bytes() > at })
		victim := p.pid()
		require.NoError(t, syscall.Kill(victim, syscall.SIGKILL))
		readers.Wait()
		p.await("the target is back", func() bool {
			status, err := p.client.Status(t.Context())
			pid := p.pid()
			return err == nil && status.State == api.StateOK && pid != 0 && pid != victim
		})
		origin.Server.HTTP.Clear()
		c.requireGet(t, name, objects[name])
	}
	for name, data := range objects {
		c.requireGet(t, name, data)
	}
	report, err := p.client.Fsck(t.Context())
	require.NoError(t, err)
	require.Empty(t, report.Corrupt)
	require.Empty(t, report.Missing)
	require.Empty(t, report.Stray)
	logs, err := filepath.Glob(filepath.Join(p.dir, "logs", "*.log"))
	require.NoError(t, err)
	for _, path := range logs {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		requireNoSecrets(t, path, string(content))
	}
}
