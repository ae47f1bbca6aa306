package api

import (
	"context"
	"net/http"
)

// States of the background movement of objects.
const (
	RebalanceIdle    = "idle"
	RebalanceRunning = "running"
	RebalanceWaiting = "waiting" // for targets that are down, or for the time after which a target is given up
	RebalanceStopped = "stopped" // by hand
)

// Rebalance says what background movement of objects is under way: after targets joined, left or died, each object is
// brought to where the map puts it, in as many copies as its bucket has.
type Rebalance struct {
	State   string   `json:"state"`             // idle, running, waiting or stopped
	Map     int64    `json:"map,omitempty"`     // version that data is moved to
	Reasons []string `json:"reasons,omitempty"` // why it waits

	Objects int64   `json:"objects,omitempty"` // looked at
	Total   int64   `json:"total,omitempty"`   // to be looked at
	Moved   int64   `json:"moved,omitempty"`   // copies made
	Bytes   int64   `json:"bytes,omitempty"`   // of these
	Deleted int64   `json:"deleted,omitempty"` // copies removed where they no longer belong
	Failed  int64   `json:"failed,omitempty"`  // copies that could not be made yet
	Rate    float64 `json:"rate,omitempty"`    // bytes a second
	ETAS    float64 `json:"eta_s,omitempty"`   // seconds that are left, as far as can be told

	Targets []RebalanceTarget `json:"targets,omitempty"`
}

// RebalanceTarget is one target's part of a Rebalance.
type RebalanceTarget struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Objects int64  `json:"objects"`
	Total   int64  `json:"total"`
	Moved   int64  `json:"moved"`
	Bytes   int64  `json:"bytes"`
	Deleted int64  `json:"deleted"`
	Failed  int64  `json:"failed"`
	Detail  string `json:"detail,omitempty"` // of the last failure
}

// Rebalance says how far the movement of objects is.
func (c *Client) Rebalance(ctx context.Context) (Rebalance, error) {
	return fetch[Rebalance](ctx, c, "/v1/cluster/rebalance", nil)
}

// StartRebalance has every target look at all that it has again, and goes on with what was stopped.
func (c *Client) StartRebalance(ctx context.Context) (Rebalance, error) {
	return c.rebalance(ctx, "start")
}

// StopRebalance has the targets move nothing, and delete nothing, until it is started again.
func (c *Client) StopRebalance(ctx context.Context) (Rebalance, error) {
	return c.rebalance(ctx, "stop")
}

func (c *Client) rebalance(ctx context.Context, verb string) (Rebalance, error) {
	var r Rebalance
	err := c.call(ctx, http.MethodPost, "/v1/cluster/rebalance/"+verb, nil, nil, &r)
	return r, err
}

// WaitRebalance returns once nothing is left to be moved. Each state on the way is shown to seen, unless that is nil. It
// rides over gateways that are away for as long as the context allows.
func (c *Client) WaitRebalance(ctx context.Context, seen func(Rebalance)) (Rebalance, error) {
	for {
		r, err := c.Rebalance(ctx)
		switch {
		case err != nil && (!passing(err) || ctx.Err() != nil):
			return r, err
		case err == nil && seen != nil:
			seen(r)
		}
		if err == nil && (r.State == RebalanceIdle || r.State == RebalanceStopped) {
			return r, nil
		}
		if !sleep(ctx, jobPollPause) {
			return r, context.Cause(ctx)
		}
	}
}
