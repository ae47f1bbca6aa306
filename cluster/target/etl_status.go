package target

import (
	"net/http"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/etl"
)

// getStatus answers how the transformations are here, by name; ?name= asks for one.
func (e *ETLs) getStatus(r *Request) error {
	only := string(r.QueryArgs().Peek("name"))
	answer := map[string]api.ETLTarget{}
	for _, d := range e.all() {
		if name := d.definition.Name; only == "" || only == name {
			answer[name] = e.statusOf(d)
		}
	}
	for name, h := range e.candidatesOf(only) {
		status := answer[name] // a zero one where it is not deployed yet
		status.Candidate = &h
		answer[name] = status
	}
	return r.WriteJSON(http.StatusOK, answer)
}

// all are the definitions known.
func (e *ETLs) all() []*deployed {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := make([]*deployed, 0, len(e.known))
	for _, d := range e.known {
		list = append(list, d)
	}
	return list
}

// statusOf is how a definition is on this target.
func (e *ETLs) statusOf(d *deployed) api.ETLTarget {
	status := api.ETLTarget{ID: e.target.id, Version: d.definition.Version, Health: e.healthOf(d)}
	if runtime, err := e.runtimeOf(d); err == nil {
		status.Stats = statsOf(runtime.Stats())
	}
	return status
}

// healthOf is the runtime's word, or what became of making one.
func (e *ETLs) healthOf(d *deployed) api.ETLHealth {
	since, failure := d.failure()
	runtime, err := e.runtimeOf(d)
	if err != nil {
		return api.ETLHealth{State: api.ETLFailed, Detail: firstLine(err), Since: since}
	}
	h := healthOf(runtime.Health())
	if failure != nil && (h.State == etl.StateNew || h.State == etl.StateFailed) {
		h.State, h.Since = api.ETLFailed, since
		if h.Detail == "" {
			h.Detail = firstLine(failure)
		}
	}
	return h
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

func healthOf(h etl.Health) api.ETLHealth {
	return api.ETLHealth{State: h.State, Detail: h.Detail, Since: h.Since.UTC(), Isolation: h.Isolation, Confined: h.Confined, Python: h.Python}
}

func statsOf(s etl.Stats) api.ETLStats {
	bounds := etl.HistogramBounds()
	latency := api.ETLLatency{BoundsS: make([]float64, len(bounds)), Counts: s.Latency.Counts[:], SumS: s.Latency.Sum.Seconds()}
	for i, b := range bounds {
		latency.BoundsS[i] = b.Seconds()
	}
	latency.Summarize()
	return api.ETLStats{
		Workers: s.Workers, Running: s.Running, Requests: s.Requests, Samples: s.Samples, Errors: s.Errors,
		Restarts: s.Restarts, Timeouts: s.Timeouts, BytesIn: s.BytesIn, BytesOut: s.BytesOut, Waiting: s.Waiting,
		BusyS: s.Busy.Seconds(), Latency: latency,
	}
}

// metrics is what a scrape sees: as many transformations as are deployed.
func (e *ETLs) metrics() []telemetry.ETL {
	all := e.all()
	list := make([]telemetry.ETL, len(all))
	for i, d := range all {
		status := e.statusOf(d)
		list[i] = telemetry.ETL{Name: d.definition.Name, State: status.Health.State, Stats: status.Stats}
	}
	return list
}
