package gateway

import (
	"context"
	_ "embed"
	"net/http"
	"os"
	"slices"
	"sync"

	"github.com/shardstream/shardstream/cluster/api"
)

//go:embed openapi.yaml
var openAPI []byte

func getOpenAPI(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/yaml")
	_, _ = w.Write(openAPI) // the client is gone: nobody to tell
	return nil
}

func (g *Gateway) getHealth(w http.ResponseWriter, _ *http.Request) error {
	return WriteJSON(w, http.StatusOK, api.Health{
		ID: g.id, Role: api.RoleGateway, State: api.StateOK, PID: os.Getpid(), Map: g.members.View().Map().Version,
	})
}

// getCluster describes the cluster. The targets are asked for the state of their disks, unless
// disks=false: a node that joins asks so, and wants no more than the way to etcd.
func (g *Gateway) getCluster(w http.ResponseWriter, r *http.Request) error {
	m := g.members.View().Map()
	status := api.Status{
		Endpoint: "http://" + r.Host, Cluster: m.Cluster, Version: g.version, Map: m.Version,
		Etcd: g.members.Endpoints(), Nodes: m.Nodes, Rebalance: api.Rebalance{State: api.RebalanceIdle},
	}
	if g.overseer != nil {
		status.Rebalance = g.overseer.Status()
	}
	if r.URL.Query().Get("disks") != "false" {
		status.Nodes = g.refresh(r.Context(), m.Nodes)
	}
	status.State = stateOf(status.Nodes)
	status.Nodes = slices.Clone(status.Nodes)
	for i := range status.Nodes {
		if status.Nodes[i].Disks == nil { // a gateway's: scripts need not tell the roles apart
			status.Nodes[i].Disks = []api.Disk{}
		}
	}
	return WriteJSON(w, http.StatusOK, status)
}

// refresh asks the live targets for the present state of their disks. One that does not answer is
// shown as degraded: its lease says that it lives.
func (g *Gateway) refresh(ctx context.Context, nodes []api.Node) []api.Node {
	fresh := make([]api.Node, len(nodes))
	var wait sync.WaitGroup
	for i, n := range nodes {
		fresh[i] = n
		if n.Role != api.RoleTarget || n.State != api.StateOK {
			continue
		}
		wait.Go(func() {
			var health api.Health
			if err := g.Ask(ctx, healthTimeout, n, http.MethodGet, "/v1/health", nil, &health); err != nil {
				fresh[i].State = api.StateDegraded
				return
			}
			fresh[i].State, fresh[i].Disks, fresh[i].PID = health.State, health.Disks, health.PID
		})
	}
	wait.Wait()
	return fresh
}

// stateOf is ok where all is well, down where no target lives, degraded between.
func stateOf(nodes []api.Node) string {
	live, well := 0, true
	for _, n := range nodes {
		well = well && n.State == api.StateOK
		if n.Role == api.RoleTarget {
			if n.State != api.StateDown {
				live++
			}
		}
	}
	switch {
	case live == 0:
		return api.StateDown
	case well:
		return api.StateOK
	}
	return api.StateDegraded
}

func (g *Gateway) getMap(w http.ResponseWriter, _ *http.Request) error {
	return WriteJSON(w, http.StatusOK, g.members.View().Map())
}
