// Package etl holds what transformations must do in a whole cluster of real processes: each kind by each transport in
// each use, and what happens when containers and nodes are killed.
package etl

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl/enginetest"
)

// program is the shardstream binary under test.
var program string

func TestMain(m *testing.M) {
	if program = os.Getenv("SHARDSTREAM_BINARY"); program == "" {
		dir, err := os.MkdirTemp("", "shardstream-etl-*")
		if err != nil {
			panic(err)
		}
		program = filepath.Join(dir, "shardstream")
		build := exec.Command("go", "build", "-o", program, "github.com/shardstream/shardstream/cmd/shardstream")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			os.Exit(1)
		}
		enginetest.Cleanup(func() { _ = os.RemoveAll(dir) })
	}
	enginetest.Main(m)
}

// cluster is a local cluster of a test.
type cluster struct {
	t        *testing.T
	dir      string
	endpoint string
	client   *api.Client
}

// start brings up a cluster that is down when the test ends. Its nodes find podman as the test does.
func start(t *testing.T, flags ...string) *cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a cluster; -short is for what needs none")
	}
	enginetest.Image(t) // sets what podman needs here, for the nodes too
	c := &cluster{t: t, dir: t.TempDir()}
	out := c.mustRun(append([]string{"up", "--detach", "--json", "--port", "0", "--dir", c.dir}, flags...)...)
	t.Cleanup(func() {
		c.mustRun("down", "--dir", c.dir)
		if t.Failed() {
			c.showLogs()
		}
	})
	var report struct {
		Endpoint string `json:"endpoint"`
	}
	require.NoError(t, json.Unmarshal(out, &report))
	c.endpoint = report.Endpoint
	client, err := api.NewClient(api.Options{Endpoint: c.endpoint})
	require.NoError(t, err)
	t.Cleanup(client.Close)
	c.client = client
	return c
}

func (c *cluster) mustRun(args ...string) []byte {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, program, args...)
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	require.NoError(c.t, command.Run(), "shardstream %s: %s%s", strings.Join(args, " "), &stdout, &stderr)
	return stdout.Bytes()
}

// pid is the process of a node now; 0 while it is being started again.
func (c *cluster) pid(node string) int {
	content, err := os.ReadFile(filepath.Join(c.dir, "run", node+".pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	require.NoError(c.t, err)
	return pid
}

func (c *cluster) showLogs() {
	logs, _ := filepath.Glob(filepath.Join(c.dir, "logs", "*"))
	for _, path := range logs {
		content, _ := os.ReadFile(path)
		c.t.Logf("%s:\n%s", path, content[max(0, len(content)-4000):])
	}
}

func (c *cluster) put(bucket, key string, data []byte) {
	c.t.Helper()
	_, err := c.client.PutObject(c.t.Context(), bucket, key, bytes.NewReader(data), int64(len(data)), api.PutOptions{})
	require.NoError(c.t, err)
}

func (c *cluster) deploy(e api.ETL) api.ETL {
	c.t.Helper()
	out, err := c.client.PutETL(c.t.Context(), e)
	require.NoError(c.t, err)
	return out
}

// store deploys what need not work.
func (c *cluster) store(e api.ETL) {
	c.t.Helper()
	_, err := c.client.StoreETL(c.t.Context(), e)
	require.NoError(c.t, err)
}

// get fetches a path through the gateway, redirects followed, and says where the answer came from.
func (c *cluster) get(path string) (status int, body, from string, err error) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 60*time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, c.endpoint+path, nil)
	require.NoError(c.t, err)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, "", "", err
	}
	defer func() { _ = answer.Body.Close() }()
	data, err := io.ReadAll(answer.Body)
	return answer.StatusCode, string(data), answer.Request.URL.Path, err
}

// refused says whether an error is the cluster's answer, and gives its text.
func refused(t *testing.T, err error) string {
	t.Helper()
	var answer *api.Error
	require.True(t, errors.As(err, &answer), "%v", err)
	return answer.Error()
}
