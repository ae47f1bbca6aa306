package outputs_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/etl/outputs"
)

// TestDamage flips each kind of byte that an entry's file has: none is served, the output is made again.
func TestDamage(t *testing.T) {
	const size = 256*kib + 1000
	for at := range 60 {
		dir := t.TempDir()
		c := open(t, dir, 10*mib)
		keep(t, c, 1, size)
		entries, _ := files(t, dir)
		require.Len(t, entries, 1)
		data, err := os.ReadFile(entries[0])
		require.NoError(t, err)
		i := len(data) - 1 - at*at // denser at the end, where everything is small
		if at >= 40 {
			i = rand.Intn(len(data))
		}
		data[i] ^= 1 << (at % 8)
		if at%10 == 9 {
			data = data[:i]
		}
		require.NoError(t, os.WriteFile(entries[0], data, 0o600))
		if at%2 == 0 {
			c = open(t, dir, 10*mib)
		}
		out, _, err := c.Do(t.Context(), identity(1), producer(content(1, size)))
		require.NoError(t, err)
		var b bytes.Buffer
		n, err := out.WriteRange(&b, 0, out.Size)
		require.NoError(t, out.Close())
		require.True(t, bytes.HasPrefix(content(1, size), b.Bytes()), "byte %d", i)
		if err != nil {
			require.ErrorIs(t, err, outputs.ErrCorrupt)
			require.Less(t, n, int64(size))
			keep(t, c, 1, size)
		}
		require.True(t, has(c, 1))
	}
}

func TestStrangeFiles(t *testing.T) {
	dir := t.TempDir()
	keep(t, open(t, dir, 10*mib), 1, 100)
	entry := entryOf(t, dir, identity(1))
	data, err := os.ReadFile(entry)
	require.NoError(t, err)
	other := identity(2).Key().String() // an output under another's name
	require.NoError(t, os.MkdirAll(filepath.Join(dir, other[:2]), 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, other[:2], other[2:]), data, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(filepath.Dir(entry), "zz"), data, 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "aside", "output-1"), data, 0o600))
	c := open(t, dir, 10*mib)
	entries, aside := files(t, dir)
	require.Equal(t, []string{entry}, entries)
	require.Empty(t, aside)
	require.True(t, has(c, 1))
	require.False(t, has(c, 2))
}

// TestKilled kills a process that writes, again and again, and looks at what it left.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	if at := os.Getenv("OUTPUTS_TEST_DIR"); at != "" {
		c, err := outputs.Open(outputs.Options{Dir: at, Quota: 64 * mib})
		require.NoError(t, err)
		first, err := strconv.Atoi(os.Getenv("OUTPUTS_TEST_FIRST"))
		require.NoError(t, err)
		for i := first; ; i++ {
			keep(t, c, i, 300*kib+i%1000)
			fmt.Println("kept", i)
		}
	}
	for round := range 5 {
		command := exec.Command(os.Args[0], "-test.run", "^TestKilled$", "-test.v")
		command.Env = append(os.Environ(), "OUTPUTS_TEST_DIR="+dir, "OUTPUTS_TEST_FIRST="+strconv.Itoa(1000*round))
		out, err := command.StdoutPipe()
		require.NoError(t, err)
		require.NoError(t, command.Start())
		seen := 0
		for lines := bufio.NewScanner(out); seen < 3+round && lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "kept") {
				seen++
			}
		}
		require.NoError(t, command.Process.Kill())
		_, _ = io.Copy(io.Discard, out)
		_ = command.Wait()
		require.Equal(t, 3+round, seen)
		c := open(t, dir, 64*mib)
		_, aside := files(t, dir)
		require.Empty(t, aside)
		require.GreaterOrEqual(t, c.Stats().Entries, int64(seen))
		require.Zero(t, c.Stats().Corrupt)
		for i := range seen {
			keep(t, c, 1000*round+i, 300*kib+(1000*round+i)%1000)
		}
		require.Zero(t, c.Stats().Misses)
	}
}

// TestAgainstAModel lets many callers ask for many outputs in a cache that holds a part of them.
func TestAgainstAModel(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 3*mib)
	var wait sync.WaitGroup
	for g := range 8 {
		wait.Go(func() {
			random := rand.New(rand.NewSource(int64(g)))
			for range 150 {
				i := random.Intn(60)
				want := content(i, 1000*i)
				out, _, err := c.Do(t.Context(), identity(i), producer(want))
				var none *outputs.NoRoomError
				if errors.As(err, &none) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				var b bytes.Buffer
				if _, err := out.WriteRange(&b, 0, out.Size); err != nil || !bytes.Equal(b.Bytes(), want) {
					t.Errorf("output %d: %v", i, err)
				}
				_ = out.Close()
				if random.Intn(20) == 0 {
					c.Sweep(func(id outputs.Identity) bool { return id.Name == "o7" })
				}
			}
		})
	}
	wait.Wait()
	stats := c.Stats()
	require.LessOrEqual(t, stats.Bytes, int64(3*mib))
	entries, aside := files(t, dir)
	require.Empty(t, aside)
	require.Len(t, entries, int(stats.Entries))
	require.Zero(t, stats.Corrupt)
	again := open(t, dir, 3*mib).Stats()
	require.Equal(t, stats.Bytes, again.Bytes)
}
