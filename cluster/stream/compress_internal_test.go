package stream

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// TestLinkIsJudgedByWhatItCarries: by the time in which bytes were under way and the peer had room for them.
func TestLinkIsJudgedByWhatItCarries(t *testing.T) {
	const second = 1_000_000 // in us, as the kernel counts
	var l link
	now := time.Unix(100, 0)
	looks := 0
	step := func(acked, busy, waitedForPeer uint64) bool {
		now = now.Add(lookAtLink)
		return l.slow(now, func() (*unix.TCPInfo, error) {
			looks++
			return &unix.TCPInfo{Bytes_acked: acked, Busy_time: busy, Rwnd_limited: waitedForPeer}, nil
		})
	}
	require.False(t, step(1<<20, 1000, 0), "too little time to tell")
	require.True(t, step(100<<20, second, 0), "100 MiB/s")
	require.True(t, step(101<<20, second+1000, 0), "too little time to tell otherwise")
	require.False(t, step(2100<<20, 2*second, 0), "2 GB/s")
	require.False(t, step(2200<<20, 12*second, 10*second), "10 seconds of them the trainer took its time")
	require.True(t, step(2300<<20, 13*second, 10*second), "100 MiB/s again")
	require.Equal(t, 6, looks)
	require.True(t, l.slow(now.Add(time.Millisecond), nil), "what was found holds for a while")
}
