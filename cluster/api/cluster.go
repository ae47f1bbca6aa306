package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// Roles and states of nodes, states of disks and of the cluster.
const (
	RoleGateway = "gateway"
	RoleTarget  = "target"

	StateOK       = "ok"
	StateDegraded = "degraded"
	StateDown     = "down"
)

// Status is GET /v1/cluster, and `shardstream status --json`.
type Status struct {
	Endpoint  string    `json:"endpoint"`
	State     string    `json:"state"` // ok, degraded, down
	Cluster   string    `json:"cluster"`
	Version   string    `json:"version"` // of the software
	Map       int64     `json:"map"`     // map version
	Etcd      []string  `json:"etcd"`    // client URLs of the control plane
	Nodes     []Node    `json:"nodes"`
	Rebalance Rebalance `json:"rebalance"`
}

// Node is a member of the cluster.
type Node struct {
	ID     string  `json:"id"`
	Role   string  `json:"role"`
	State  string  `json:"state"` // StateOK while its lease lives, else StateDown
	Addr   string  `json:"addr"`  // host:port
	PID    int     `json:"pid"`
	Weight float64 `json:"weight,omitempty"` // placement weight of a target; 1 unless set
	Disks  []Disk  `json:"disks,omitzero"`

	// Away, Draining and Bare are the map's, and so the same for all who have its version. Away: the target's lease was
	// over; mirrored objects are kept on the others meanwhile. Draining: nothing new is placed on it, and what it
	// has is moved. Drained: all of that is done, and it may be removed. Bare: it came back with less than it had.
	Away     bool `json:"away,omitempty"`
	Draining bool `json:"draining,omitempty"`
	Drained  bool `json:"drained,omitempty"`
	Bare     bool `json:"bare,omitempty"`
}

// NodeList is GET /v1/cluster/nodes.
type NodeList struct {
	Nodes []Node `json:"nodes"`
}

// Health is GET /v1/health of any node.
type Health struct {
	ID    string `json:"id"`
	Role  string `json:"role"`
	State string `json:"state"`
	PID   int    `json:"pid"`
	Map   int64  `json:"map"` // version of the map that the node goes by
	Disks []Disk `json:"disks,omitempty"`
}

// TokenRequest is POST /v1/cluster/tokens.
type TokenRequest struct {
	ValidS int64 `json:"valid_s,omitempty"` // seconds; 0: an hour
}

// JoinToken lets one new node join the cluster, once.
type JoinToken struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// Status is the state of the cluster and its nodes.
func (c *Client) Status(ctx context.Context) (Status, error) {
	return fetch[Status](ctx, c, "/v1/cluster", nil)
}

// ControlPlane are the client URLs of the cluster's etcd: what a node needs to join.
func (c *Client) ControlPlane(ctx context.Context) ([]string, error) {
	status, err := fetch[Status](ctx, c, "/v1/cluster", url.Values{"disks": {"false"}})
	return status.Etcd, err
}

// Nodes are the members of the cluster.
func (c *Client) Nodes(ctx context.Context) ([]Node, error) {
	list, err := fetch[NodeList](ctx, c, "/v1/cluster/nodes", nil)
	return list.Nodes, err
}

// Node is one member of the cluster.
func (c *Client) Node(ctx context.Context, id string) (Node, error) {
	return fetch[Node](ctx, c, "/v1/cluster/nodes/"+url.PathEscape(id), nil)
}

// Drain has a target give what it has to the others, or ends that.
func (c *Client) Drain(ctx context.Context, id string, draining bool) (Node, error) {
	method := http.MethodPost
	if !draining {
		method = http.MethodDelete
	}
	var n Node
	// Repeating is harmless: it is drained, or it is not.
	err := c.retry(ctx, func() error {
		return c.call(ctx, method, "/v1/cluster/nodes/"+url.PathEscape(id)+"/drain", nil, nil, &n)
	})
	return n, err
}

// RemoveNode takes a node out of the cluster. A target that is not drained is refused with CodeNotDrained, unless
// forced: then what only it has is lost.
func (c *Client) RemoveNode(ctx context.Context, id string, force bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	return c.call(ctx, http.MethodDelete, "/v1/cluster/nodes/"+url.PathEscape(id), query, nil, nil)
}

// NewToken makes a token that one new node can join the cluster with; 0: it is valid for an hour.
func (c *Client) NewToken(ctx context.Context, valid time.Duration) (JoinToken, error) {
	var t JoinToken
	err := c.call(ctx, http.MethodPost, "/v1/cluster/tokens", nil, TokenRequest{ValidS: int64(valid / time.Second)}, &t)
	return t, err
}
