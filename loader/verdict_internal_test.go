package loader

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/core/wire"
)

// TestBlame: only a machine with a cold cache can show a slow disk, so the judgement has a test of its own.
func TestBlame(t *testing.T) {
	const s = int64(time.Second)
	for name, test := range map[string]struct {
		work   wire.Work
		want   string
		shared string // memory: the same work's verdict where it differs
	}{
		"nothing is known":              {wire.Work{}, BoundTarget, ""},
		"the connection is full":        {wire.Work{Send: 9 * s, Full: 8 * s, Idle: s}, BoundNetwork, BoundLoader},
		"it is not, and nothing waits":  {wire.Work{Send: 9 * s, Full: s, Idle: s, Sent: 1000}, BoundNetwork, BoundTarget},
		"sending reads from disks":      {wire.Work{Send: 9 * s, Full: s, Idle: s, Stored: 900, Sent: 1000}, BoundDisk, ""},
		"a little of it":                {wire.Work{Send: 9 * s, Full: s, Idle: s, Stored: 100, Sent: 1000}, BoundNetwork, BoundTarget},
		"cold, but the link is slower":  {wire.Work{Send: 9 * s, Full: 7 * s, Idle: s, Stored: 900, Sent: 1000}, BoundNetwork, BoundLoader},
		"waiting for the etl":           {wire.Work{Send: s, Idle: 9 * s, ETL: 8 * s, Read: s, Plan: s}, BoundETL, ""},
		"waiting for its input":         {wire.Work{Send: s, Idle: 9 * s, ETL: s, Read: 8 * s}, BoundDisk, ""},
		"waiting for shards to open":    {wire.Work{Send: s, Idle: 9 * s, Plan: 8 * s, Stored: 500, Sent: 1000}, BoundDisk, ""},
		"waiting for many small shards": {wire.Work{Send: s, Idle: 9 * s, Plan: 8 * s, Sent: 1000}, BoundTarget, ""},
	} {
		for _, shared := range []bool{false, true} {
			want := test.want
			if shared && test.shared != "" {
				want = test.shared
			}
			bound, reason := blame(test.work, "augment", 1e6, shared)
			require.Equal(t, want, bound, name)
			require.NotEmpty(t, reason, name)
			require.NotEmpty(t, sentences[bound], name)
		}
	}
}

func TestTrailKeepsTheLastSeconds(t *testing.T) {
	var tr trail
	start := time.Unix(100, 0)
	at := func(ms int) point {
		return point{at: start.Add(time.Duration(ms) * time.Millisecond), samples: int64(ms)}
	}
	require.Zero(t, tr.rates(at(1000)), "nothing to compare with")
	for ms := 0; ms <= 60_000; ms += 100 {
		tr.add(at(ms))
	}
	r := tr.rates(at(60_500))
	require.InDelta(t, 1000, r.SamplesPS, 1)
	require.InDelta(t, trailPoints*trailStep.Seconds(), r.Seconds, 1)
}
