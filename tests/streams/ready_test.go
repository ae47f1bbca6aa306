package streams_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/clustertest"
	"github.com/shardstream/shardstream/etl/environment/environmenttest"
	"github.com/shardstream/shardstream/loader"
)

// TestTargetJoinsOnceItIsReady: a target joins while a stream and reads go through a transformation whose environment it
// has to build first. It gets no traffic before that, and no request fails.
func TestTargetJoinsOnceItIsReady(t *testing.T) {
	index := environmenttest.New(t)
	index.Gated("shade", "1.0")
	index.Open("shade")
	c := clustertest.Start(t, clustertest.Options{Targets: 2, Disks: 1})
	_, err := c.Client.CreateBucket(t.Context(), "b")
	require.NoError(t, err)
	for s := range 6 {
		data := makeShard(t, s, 40, 2000)
		_, err := c.Client.PutObject(t.Context(), "b", fmt.Sprintf("train-%04d.tar", s), bytes.NewReader(data), int64(len(data)), api.PutOptions{})
		require.NoError(t, err)
	}
	_, err = c.Client.PutETL(t.Context(), api.ETL{
		Name: "size", Requirements: []string{"shade"}, Workers: 1,
		Source: "import shade\ndef transform(sample):\n    return {'size': len(sample['jpg']), 'version': shade.VERSION}\n",
	})
	require.NoError(t, err)
	index.Shut("shade")

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var load sync.WaitGroup
	var reads, epochs atomic.Int64
	load.Go(func() {
		for i := 0; ctx.Err() == nil; i++ {
			err := readThrough(ctx, fmt.Sprintf("%s/v1/objects/b/train-%04d.tar?etl=size", c.Endpoint(), i%6))
			if ctx.Err() == nil && err != nil {
				t.Error("a read failed: ", err)
				return
			}
			reads.Add(1)
		}
	})
	load.Go(func() {
		for ctx.Err() == nil {
			l, err := loader.New(loader.Config{Sources: []string{"ss://b/"}, ETL: "size", BatchSize: 16, Shuffle: "global", Timeout: 60 * time.Second}, c.Client)
			if err == nil {
				err = wholeEpoch(ctx, l)
				_ = l.Close()
			}
			if ctx.Err() == nil && err != nil {
				t.Error("a stream failed: ", err)
				return
			}
			epochs.Add(1)
		}
	})
	joined := make(chan struct{})
	go func() {
		defer close(joined)
		c.AddTarget()
	}()
	dir := filepath.Join(strings.Replace(c.Targets[0].Config.DataDirs[0], "target-1", "target-3", 1), "etl", "environments")
	c.Await("the new target builds", func() bool {
		found, _ := filepath.Glob(filepath.Join(dir, "*", "pyvenv.cfg"))
		return len(found) > 0
	})
	before := reads.Load()
	c.Await("reads go on meanwhile", func() bool { return reads.Load() > before+5 || t.Failed() })
	m, err := c.Client.RefreshMap(t.Context())
	require.NoError(t, err)
	require.Len(t, m.Map.Targets(), 2, "it is not there yet")
	index.Open("shade")
	<-joined
	c.Await("it is there, and ready", func() bool {
		s, err := c.Client.ETLStatus(t.Context(), "size")
		return err == nil && s.Ready == 3
	})
	before, whole := reads.Load(), epochs.Load()
	c.Await("all goes on with it", func() bool { return reads.Load() > before+12 && epochs.Load() > whole+1 || t.Failed() })
	stop()
	load.Wait()
}

// readThrough reads a transformed object to its end.
func readThrough(ctx context.Context, url string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", answer.Status, body)
	}
	return err
}

// wholeEpoch reads an epoch to its end.
func wholeEpoch(ctx context.Context, l *loader.Loader) error {
	if err := l.Start(loader.Run{}); err != nil {
		return err
	}
	for ctx.Err() == nil {
		slot, _, err := l.Next(60 * time.Second)
		if errors.Is(err, loader.ErrEnd) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := l.Release(slot); err != nil {
			return err
		}
	}
	return nil
}
