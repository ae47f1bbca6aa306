package main

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
)

func TestBucketInFrontOfAWebServer(t *testing.T) {
	run := onCluster(t)
	dir := t.TempDir()
	for _, name := range []string{"a-0.bin", "a-1.bin", "b.bin"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(strings.Repeat(name, 200)), 0o600))
	}
	web := httptest.NewServer(http.FileServer(http.Dir(dir)))
	t.Cleanup(web.Close)
	ok(t, run("bucket", "create", "web", "--backend", web.URL+"/", "--pin", "b.bin", "--quota", "1GiB"))

	list := ok(t, run("ls", "ss://web/"))
	assert.Equal(t, 3, strings.Count(list, "no      ss://web/"), list)
	assert.Equal(t, strings.Repeat("a-1.bin", 200), ok(t, run("cat", "ss://web/a-1.bin")))
	assert.Contains(t, ok(t, run("ls", "ss://web/")), "yes     ss://web/a-1.bin")
	assert.NotContains(t, ok(t, run("ls", "ss://web/", "--cached")), "a-0.bin")
	assert.Contains(t, ok(t, run("prefetch", "ss://web/a-{0..1}.bin", "--wait")), "done, 1 fetched, 1 skipped")
	assert.Contains(t, ok(t, run("prefetch", "ss://web/b.bin", "--wait")), "done, 1 fetched")
	show := ok(t, run("bucket", "show", "web"))
	for _, part := range []string{"backend\t" + web.URL, "check\tttl 1m0s", "quota\t1.0 GiB", "pinned\tb.bin", "in 3 objects"} {
		assert.Contains(t, show, part)
	}
	assert.Contains(t, ok(t, run("evict", "ss://web/", "--wait")), "2 evicted, 1 skipped")
	assert.Contains(t, ok(t, run("bucket", "ls")), "read-only of "+web.URL)

	ok(t, run("bucket", "set", "web", "--quota", "0", "--pin", "none", "--check", "never", "--write", "cache-only", "--delete", "cache"))
	var b api.Bucket
	require.NoError(t, json.Unmarshal([]byte(ok(t, run("bucket", "show", "web", "--json"))), &b))
	assert.Equal(t, api.Backend{
		URL: strings.TrimSuffix(web.URL, "/"), Check: api.CheckNever, Write: api.WriteCacheOnly, Delete: api.DeleteCached,
	}, *b.Backend)

	for name, c := range map[string]struct {
		args []string
		code int
		says string
	}{
		"copies":     {[]string{"bucket", "create", "x", "--backend", web.URL, "--mirror", "2"}, exitFailed, "durable copy"},
		"private":    {[]string{"bucket", "create", "x", "--backend", "http://10.1.2.3/"}, exitFailed, "backend_allow"},
		"away":       {[]string{"bucket", "create", "x", "--backend", "http://127.0.0.1:9/"}, exitFailed, "--no-check"},
		"no backend": {[]string{"bucket", "create", "x", "--quota", "1GiB"}, exitUsage, "--backend"},
		"ttl":        {[]string{"bucket", "create", "x", "--backend", web.URL, "--ttl", "0s"}, exitUsage, "--ttl"},
		"no file":    {[]string{"bucket", "create", "x", "--backend", web.URL, "--ca", filepath.Join(dir, "none")}, exitFailed, "no such file"},
		"no match":   {[]string{"prefetch", "ss://web/z*", "--wait"}, exitFailed, "matches no object"},
		"no address": {[]string{"prefetch", "web"}, exitUsage, "ss://"},
		"by kind":    {[]string{"job", "start", "--kind", "prefetch"}, exitUsage, "shardstream prefetch"},
	} {
		r := run(c.args...)
		assert.Equal(t, c.code, r.code, "%s: %s", name, r.err)
		assert.Contains(t, r.err, c.says, name)
	}
	ok(t, run("bucket", "rm", "web"))
}

func TestSecretsAreNotShown(t *testing.T) {
	run := onCluster(t)
	dir := t.TempDir()
	key, fields := filepath.Join(dir, "key.json"), filepath.Join(dir, "fields")
	require.NoError(t, os.WriteFile(key, []byte(`{"private": "hunter2"}`), 0o600))
	require.NoError(t, os.WriteFile(fields, []byte("# of the test\n\naccount=me\nsas = hunter2=\n"), 0o600))
	var said strings.Builder
	note := func(r result) string {
		said.WriteString(r.out + r.err)
		return ok(t, r)
	}
	assert.Contains(t, note(run("secret", "set", "cli-a", "credentials_json=@"+key)), "credentials_json")
	assert.Contains(t, note(run("secret", "set", "cli-b", "--from-file", fields)), "account, sas")
	stdin := cliWith(t, []byte("key=hunter2\n"), []string{"SHARDSTREAM_ENDPOINT=" + shared.endpoint}, "secret", "set", "cli-c", "account=me", "--from-file", "-")
	assert.Contains(t, note(stdin), "account, key")
	assert.Contains(t, note(run("secret", "ls")), "account,sas")
	note(run("secret", "ls", "--json"))
	for _, args := range [][]string{
		{"secret", "set", "cli-d", "hunter2"},
		{"secret", "set", "cli-d"},
		{"secret", "set", "cli-d", "a=hunter2", "a=hunter2"},
		{"secret", "set", "Not-A-Name", "a=hunter2"},
		{"secret", "set", "cli-d", "a b=hunter2"},
	} {
		r := run(args...)
		assert.NotZero(t, r.code, args)
		said.WriteString(r.out + r.err)
	}
	note(run("secret", "rm", "cli-a", "cli-b", "cli-c"))
	assert.NotContains(t, said.String(), "hunter2")
	logs, err := filepath.Glob(filepath.Join(shared.dir, "logs", "*.log"))
	require.NoError(t, err)
	require.NotEmpty(t, logs)
	for _, path := range logs {
		content, err := os.ReadFile(path)
		require.NoError(t, err)
		assert.NotContains(t, string(content), "hunter2", path)
	}
}
