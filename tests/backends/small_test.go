package backends

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/tests/backends/servers"
	"github.com/shardstream/shardstream/tests/backends/serverstest"
)

// Small objects, as many as a data set of single images has.
const (
	smallObjects = 10_000
	smallSize    = 10_000
	smallReaders = 32
)

// BenchmarkSmallObjects fetches 10,000 small cold objects of one server in three ways, one after the other: with the copy
// tools that are there (aws s3 sync, and rclone, which is faster), by a job that prefetches them, and by 32 readers.
// The last two are reported as parts of the time that the fastest tool has taken.
func BenchmarkSmallObjects(b *testing.B) {
	server := serverstest.Get(b, backend.S3)
	origin := server.Bucket(b)
	objects := map[string][]byte{}
	for i := range smallObjects {
		objects[fmt.Sprintf("%03d/%05d.jpg", i%100, i)] = bytesOf(uint64(i), smallSize)
	}
	origin.PutAll(objects)
	c := clustertest.Start(b, clustertest.Options{Targets: 2})
	of := server.Backend(origin.Name, "")
	of.Endpoint = server.EndpointAt(server.Addr) // nobody goes through the proxy here
	if _, err := c.Client.PutSecret(b.Context(), of.Secret, server.Secret()); err != nil {
		b.Fatal(err)
	}
	for range b.N {
		fastest := time.Duration(0)
		for name, command := range copyTools(b, server, origin.Name) {
			took := copied(b, command)
			b.ReportMetric(took.Seconds(), name+"-s")
			if fastest == 0 || took < fastest {
				fastest = took
			}
		}
		if fastest == 0 {
			b.Skip("neither aws nor rclone is installed")
		}
		for name, fetch := range map[string]func(*testing.B, *api.Client, string, map[string][]byte){"prefetch": prefetched, "readers": readBy} {
			bucket := "small-" + name
			if _, err := c.Client.CreateBucketWith(b.Context(), bucket, api.BucketChange{Backend: of}); err != nil {
				b.Fatal(err)
			}
			began := time.Now()
			fetch(b, c.Client, bucket, objects)
			took := time.Since(began)
			b.ReportMetric(took.Seconds(), name+"-s")
			b.ReportMetric(took.Seconds()/fastest.Seconds(), name+"-of-tool")
			if err := c.Client.DeleteBucket(b.Context(), bucket, true); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// copyTools are the commands that copy the bucket, but for their last argument, a folder.
func copyTools(b *testing.B, server *serverstest.Server, bucket string) map[string][]string {
	b.Helper()
	tools := map[string][]string{}
	if path, err := exec.LookPath("aws"); err == nil {
		config := filepath.Join(b.TempDir(), "config")
		text := fmt.Sprintf("[default]\nregion = us-east-1\ns3 =\n  max_concurrent_requests = %d\n", smallReaders)
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
		b.Setenv("AWS_CONFIG_FILE", config)
		tools["aws"] = []string{path, "s3", "sync", "--only-show-errors", "--endpoint-url", server.EndpointAt(server.Addr), "s3://" + bucket}
	}
	if path, err := exec.LookPath("rclone"); err == nil {
		remote := fmt.Sprintf(":s3,provider=Other,env_auth,endpoint='%s':%s", server.EndpointAt(server.Addr), bucket)
		tools["rclone"] = []string{path, "copy", "--transfers", fmt.Sprint(smallReaders), "--checkers", fmt.Sprint(smallReaders), remote}
	}
	return tools
}

// copied runs a copy tool, and is how long it took.
func copied(b *testing.B, command []string) time.Duration {
	b.Helper()
	folder := b.TempDir()
	run := exec.Command(command[0], append(command[1:len(command):len(command)], folder)...)
	run.Env = append(os.Environ(), "AWS_ACCESS_KEY_ID="+servers.S3AccessKey, "AWS_SECRET_ACCESS_KEY="+servers.S3SecretKey, "AWS_REGION="+servers.S3Region)
	// Some tools can't do with a bundle of certificates in the environment, which plain HTTP has no use for.
	run.Env = append(withoutPrefix(run.Env, "AWS_CA_BUNDLE="), "RCLONE_CONFIG=")
	began := time.Now()
	if out, err := run.CombinedOutput(); err != nil {
		b.Fatalf("%v: %v\n%s", command, err, out)
	}
	took := time.Since(began)
	files, err := filepath.Glob(filepath.Join(folder, "*", "*.jpg"))
	if err != nil || len(files) != smallObjects {
		b.Fatalf("%s copied %d files: %v", command[0], len(files), err)
	}
	return took
}

func withoutPrefix(environment []string, prefix string) []string {
	var kept []string
	for _, variable := range environment {
		if !strings.HasPrefix(variable, prefix) {
			kept = append(kept, variable)
		}
	}
	return kept
}

func prefetched(b *testing.B, client *api.Client, bucket string, _ map[string][]byte) {
	b.Helper()
	job, err := client.StartJob(b.Context(), api.JobSpec{Kind: api.JobPrefetch, Prefetch: &api.CacheSpec{Bucket: bucket}})
	if err == nil {
		job, err = client.WaitJob(b.Context(), job.ID, nil)
	}
	if err != nil || job.State != api.JobDone {
		b.Fatalf("%v: %v", job.State, err)
	}
}

func readBy(b *testing.B, client *api.Client, bucket string, objects map[string][]byte) {
	b.Helper()
	names := make(chan string, len(objects))
	for name := range objects {
		names <- name
	}
	close(names)
	var readers sync.WaitGroup
	for range smallReaders {
		readers.Go(func() {
			for name := range names {
				object, err := client.GetObject(b.Context(), bucket, name, api.GetOptions{})
				if err != nil {
					b.Error(err)
					return
				}
				data, err := io.ReadAll(object)
				if err != nil || !bytes.Equal(data, objects[name]) {
					b.Errorf("%s: %v", name, err)
				}
				_ = object.Close()
			}
		})
	}
	readers.Wait()
}
