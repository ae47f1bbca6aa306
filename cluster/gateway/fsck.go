package gateway

import (
	"fmt"
	"net/http"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
)

// postFsck has all targets read and verify what they hold, and compare it with what is to be where. Targets that are
// away are left out: what they had is on the others, or missing there.
func (g *Gateway) postFsck(w http.ResponseWriter, r *http.Request) error {
	view := g.members.View()
	report := api.FsckReport{Corrupt: []api.Finding{}, Missing: []api.Finding{}, Stray: []api.Finding{}}
	var targets []api.Node
	for _, n := range view.Map().Targets() {
		switch {
		case n.Away:
			report.Missing = append(report.Missing, sole(n, view.Buckets())...)
		case n.State == api.StateDown: // it might accept a connection and never answer
			return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "target %s is down; what it holds can't be checked", n.ID)
		default:
			targets = append(targets, n)
		}
	}
	parts := make([]api.FsckReport, len(targets))
	group, ctx := errgroup.WithContext(r.Context())
	for i, n := range targets {
		group.Go(func() error { return g.Ask(ctx, fsckTimeout, n, http.MethodPost, "/v1/fsck", nil, &parts[i]) })
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for _, p := range parts {
		report.Objects += p.Objects
		report.Corrupt = append(report.Corrupt, p.Corrupt...)
		report.Missing = append(report.Missing, p.Missing...)
		report.Stray = append(report.Stray, p.Stray...)
	}
	return WriteJSON(w, http.StatusOK, report)
}

// sole are findings for what only a target that is away may have.
func sole(n api.Node, buckets []api.Bucket) []api.Finding {
	var found []api.Finding
	for i := range buckets {
		if b := &buckets[i]; b.Copies() == 1 {
			found = append(found, api.Finding{
				Node: n.ID, Object: api.Address(b.Name, ""), Block: -1,
				Detail: fmt.Sprintf("objects of this bucket have one copy, and target %s, which is away, has its share of them", n.ID),
			})
		}
	}
	return found
}
