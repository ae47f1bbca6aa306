package gateway

import (
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

const rateWindow = 10 * time.Second

// rateMeter tells how fast counts grow, over the last seconds.
type rateMeter struct {
	marks []rateMark
}

type rateMark struct {
	at     time.Time
	counts api.JobCounts
}

func (m *rateMeter) add(now time.Time, counts api.JobCounts) api.JobRate {
	m.marks = append(m.marks, rateMark{now, counts})
	for len(m.marks) > 2 && now.Sub(m.marks[0].at) > rateWindow {
		m.marks = m.marks[1:]
	}
	first := m.marks[0]
	took := now.Sub(first.at).Seconds()
	if took <= 0 {
		return api.JobRate{}
	}
	rate := api.JobRate{
		Objects: float64(counts.Finished()-first.counts.Finished()) / took,
		Bytes:   float64(counts.BytesIn-first.counts.BytesIn) / took,
	}
	var eta float64
	switch {
	case counts.Total < 0:
		return rate
	case rate.Bytes > 0:
		eta = max(0, float64(counts.TotalBytes-counts.BytesIn)) / rate.Bytes
	case rate.Objects > 0:
		eta = max(0, float64(counts.Total-counts.Finished())) / rate.Objects
	default:
		return rate
	}
	rate.ETA = &eta
	return rate
}

// moving says whether the last two marks differ, so that a rate that falls to nothing is written down too.
func (m *rateMeter) moving() bool {
	return len(m.marks) > 1 && m.marks[0].counts != m.marks[len(m.marks)-1].counts
}
