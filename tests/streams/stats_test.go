package streams_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/loader"
)

// until iterates epochs, batch by batch, until the stats are as wanted.
func until(t *testing.T, l *loader.Loader, r loader.Run, ready func(loader.Stats) bool, wanted func(loader.Stats) bool) loader.Stats {
	t.Helper()
	deadline := time.Now().Add(patience)
	require.NoError(t, l.Start(r))
	for {
		s := l.Stats()
		if wanted(s) {
			return s
		}
		require.True(t, time.Now().Before(deadline), "%+v", s)
		if !ready(s) {
			continue
		}
		_, err := next(t, l)
		if errors.Is(err, loader.ErrEnd) {
			r.Epoch++
			require.NoError(t, l.Start(r))
			continue
		}
		require.NoError(t, err)
	}
}

func always(loader.Stats) bool { return true }

func boundBy(what string) func(loader.Stats) bool {
	return func(s loader.Stats) bool { return s.BoundBy == what }
}

func TestTheTrainerBoundsTheRun(t *testing.T) {
	c := newCluster(t, 2).fill(8, 100, 200)
	l := open(t, c, func(cfg *loader.Config) { cfg.BatchSize = 8 })
	require.Empty(t, l.Stats().BoundBy, "nothing has begun")
	full := func(s loader.Stats) bool { return s.Queue.Ready == s.Queue.Window }
	// A trainer that always finds a full window; near the end there are fewer batches left than fill it.
	s := until(t, l, loader.Run{}, func(s loader.Stats) bool { return full(s) || s.Batches%100 > 90 }, func(s loader.Stats) bool {
		return s.Batches > 20 && s.BoundBy == loader.BoundTrainer
	})
	require.Contains(t, s.Advice, "The trainer is the bottleneck")
	require.Less(t, s.Recent.WaitShare, 0.1)
	require.Positive(t, s.Recent.SamplesPS)
	require.Equal(t, 4, s.Queue.Window)
	require.Zero(t, s.Queue.Held)
}

func TestTheTransformationBoundsTheRun(t *testing.T) {
	c := newCluster(t, 2).fill(4, 100, 200)
	c.deploy(`
import time
def transform(sample):
    time.sleep(0.005)
    return {"cls": int(sample["cls"])}
`)
	l := open(t, c, withETL)
	s := until(t, l, loader.Run{}, always, boundBy(loader.BoundETL))
	require.Contains(t, s.Advice, `"f"`)
	require.Contains(t, s.Advice, "target-")
	require.Greater(t, s.Recent.WaitShare, 0.1)
	work := s.Targets["target-1"].Work
	work2 := s.Targets["target-2"].Work
	require.Positive(t, work.ETL+work2.ETL)
	require.Greater(t, work.Idle+work2.Idle, work.Send+work2.Send)
}

// slowLink takes as long for each piece as a slow network would.
type slowLink struct{ net.Conn }

func (s slowLink) Write(p []byte) (int, error) {
	const piece = 64 << 10
	sent := 0
	for len(p) > 0 {
		<-time.After(2 * time.Millisecond)
		n, err := s.Conn.Write(p[:min(piece, len(p))])
		sent += n
		if err != nil {
			return sent, err
		}
		p = p[n:]
	}
	return sent, nil
}

func TestTheNetworkBoundsTheRun(t *testing.T) {
	c := newCluster(t, 2).fill(4, 50, 30_000)
	c.targets[1].setWrap(func(nc net.Conn) net.Conn { return slowLink{nc} })
	l := open(t, c, func(cfg *loader.Config) { cfg.SharedMemory = false })
	s := until(t, l, loader.Run{}, always, func(s loader.Stats) bool {
		return s.BoundBy == loader.BoundNetwork && s.Targets["target-2"].Work.Full > 0
	})
	require.Contains(t, s.Advice, "target-2", "the slow one of the two")
	require.Greater(t, s.Targets["target-2"].WaitSeconds, s.Targets["target-1"].WaitSeconds)
}

func TestStatsBeforeTheFirstBatch(t *testing.T) {
	c := newCluster(t, 1).fill(1, 10, 100)
	c.targets[0].setWrap(func(nc net.Conn) net.Conn { return silent{nc} })
	l := open(t, c, nil)
	require.NoError(t, l.Start(loader.Run{}))
	_, _, err := l.Next(time.Millisecond)
	require.ErrorIs(t, err, loader.ErrTimeout)
	s := l.Stats()
	require.Equal(t, loader.BoundOpening, s.BoundBy)
	require.Contains(t, s.Advice, "No batch has arrived yet")
}

// silent swallows what is written.
type silent struct{ net.Conn }

func (silent) Write(p []byte) (int, error) { return len(p), nil }

func TestStatsAddUp(t *testing.T) {
	c := newCluster(t, 3).fill(5, 47, 500)
	l := open(t, c, nil)
	for epoch := range uint64(2) {
		run(t, l, loader.Run{Epoch: epoch})
	}
	s := l.Stats()
	require.EqualValues(t, 2*5*47, s.Samples)
	var samples, bytes int64
	for _, target := range s.Targets {
		samples += target.Samples
		bytes += target.Bytes
		require.LessOrEqual(t, target.WaitSeconds, s.WaitSeconds)
	}
	require.Equal(t, s.Samples, samples)
	require.Equal(t, s.Bytes, bytes)
	require.InDelta(t, s.WaitSeconds/s.RunSeconds, s.WaitShare, 0.2)
	require.InEpsilon(t, float64(s.Samples)/s.RunSeconds, s.SamplesPS, 1e-9)
	require.Zero(t, s.Queue.Ready)
	require.Zero(t, s.Queue.Assembling)
}
