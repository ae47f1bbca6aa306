package api

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"
)

// Limits of work that takes its time.
const (
	fsckTimeout = 6 * time.Hour    // reads all the cluster's data
	dropTimeout = 11 * time.Minute // deletes all of a bucket; longer than the gateway's own limit
	// deployTimeout and restartTimeout are longer than the gateway's limits, too.
	deployTimeout  = 16 * time.Minute
	restartTimeout = 4 * time.Minute
)

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

// NewToken makes a token that one new node can join the cluster with; 0: it is valid for an hour.
func (c *Client) NewToken(ctx context.Context, valid time.Duration) (JoinToken, error) {
	var t JoinToken
	err := c.call(ctx, http.MethodPost, "/v1/cluster/tokens", nil, TokenRequest{ValidS: int64(valid / time.Second)}, &t)
	return t, err
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

// CreateBucket makes a bucket with one copy of each object; CodeExists if it exists.
func (c *Client) CreateBucket(ctx context.Context, name string) (Bucket, error) {
	return c.CreateBucketWith(ctx, name, BucketChange{})
}

// CreateBucketWith makes a bucket with other properties than a bucket has by default; CodeExists if it exists.
func (c *Client) CreateBucketWith(ctx context.Context, name string, properties BucketChange) (Bucket, error) {
	var b Bucket
	err := c.call(ctx, http.MethodPut, bucketPath(name), nil, properties, &b)
	return b, err
}

// ChangeBucket changes a bucket's properties. Objects are brought to what a new redundancy takes in the background.
func (c *Client) ChangeBucket(ctx context.Context, name string, change BucketChange) (Bucket, error) {
	var b Bucket
	err := c.call(ctx, http.MethodPatch, bucketPath(name), nil, change, &b)
	return b, err
}

// PatchBucket is ChangeBucket for some of a backend's properties: the others stay.
func (c *Client) PatchBucket(ctx context.Context, name string, patch BucketPatch) (Bucket, error) {
	var b Bucket
	err := c.call(ctx, http.MethodPatch, bucketPath(name), nil, patch, &b)
	return b, err
}

// Bucket finds a bucket; CodeNoBucket if there is none.
func (c *Client) Bucket(ctx context.Context, name string) (Bucket, error) {
	return fetch[Bucket](ctx, c, bucketPath(name), nil)
}

// Buckets are all buckets, sorted by name.
func (c *Client) Buckets(ctx context.Context) ([]Bucket, error) {
	list, err := fetch[BucketList](ctx, c, "/v1/buckets", nil)
	return list.Buckets, err
}

// DeleteBucket removes a bucket. One that holds objects is refused with CodeNotEmpty, unless forced:
// then they are gone.
func (c *Client) DeleteBucket(ctx context.Context, name string, force bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	return c.callFor(ctx, dropTimeout, http.MethodDelete, bucketPath(name), query, nil, nil)
}

// Fsck has every target read and verify all that it holds.
func (c *Client) Fsck(ctx context.Context) (FsckReport, error) {
	var r FsckReport
	err := c.callFor(ctx, fsckTimeout, http.MethodPost, "/v1/fsck", nil, nil, &r)
	return r, err
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

// ETLs are the deployed transformations, sorted by name.
func (c *Client) ETLs(ctx context.Context) ([]ETL, error) {
	list, err := fetch[ETLList](ctx, c, "/v1/etls", nil)
	return list.ETLs, err
}

// ETL finds a transformation; CodeNoETL if there is none.
func (c *Client) ETL(ctx context.Context, name string) (ETL, error) {
	return fetch[ETL](ctx, c, etlPath(name), nil)
}

// PutETL deploys a transformation, new or in place of the one of that name, once all targets have made it ready, which
// may take minutes: ETLStatus tells meanwhile how far that is. When the context ends before, nothing was deployed.
func (c *Client) PutETL(ctx context.Context, e ETL) (ETL, error) {
	var out ETL
	err := c.callFor(ctx, deployTimeout, http.MethodPut, etlPath(e.Name), nil, e, &out)
	return out, err
}

// StoreETL deploys a transformation untried; its status tells whether it works.
func (c *Client) StoreETL(ctx context.Context, e ETL) (ETL, error) {
	var out ETL
	err := c.call(ctx, http.MethodPut, etlPath(e.Name), url.Values{"wait": {"false"}}, e, &out)
	return out, err
}

// ETLStatus is how a transformation is on the targets, also while it is tried for the first time; CodeNoETL if there is
// neither.
func (c *Client) ETLStatus(ctx context.Context, name string) (ETLStatus, error) {
	return fetch[ETLStatus](ctx, c, etlPath(name)+"/status", nil)
}

// RestartETL replaces a transformation's workers by new ones and returns once these are up.
func (c *Client) RestartETL(ctx context.Context, name string) (ETLStatus, error) {
	var out ETLStatus
	err := c.callFor(ctx, restartTimeout, http.MethodPost, etlPath(name)+"/restart", nil, nil, &out)
	return out, err
}

// DeleteETL removes a transformation.
func (c *Client) DeleteETL(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, etlPath(name), nil, nil, nil)
}

// OpenStream describes a stream to the cluster, which makes its snapshot.
func (c *Client) OpenStream(ctx context.Context, r StreamRequest) (StreamInfo, error) {
	var info StreamInfo
	// Repeating is harmless: the same description makes the same snapshot.
	err := c.retry(ctx, func() error {
		return c.call(ctx, http.MethodPost, "/v1/streams", nil, r, &info)
	})
	return info, err
}

// AwaitStream is OpenStream that asks again for as long as the cluster describes the stream's shards at their backend, which
// for many of them takes longer than one answer may.
func (c *Client) AwaitStream(ctx context.Context, r StreamRequest) (StreamInfo, error) {
	for {
		info, err := c.OpenStream(ctx, r)
		var answer *Error
		if !errors.As(err, &answer) || answer.Code != CodeDescribing || !sleep(ctx, describingPause) {
			return info, err
		}
	}
}

// describingPause is between two questions; each is answered once there is something to say.
const describingPause = 200 * time.Millisecond

func etlPath(name string) string { return "/v1/etls/" + url.PathEscape(name) }

// fetch gets a document from the gateway.
func fetch[T any](ctx context.Context, c *Client, path string, query url.Values) (T, error) {
	var document T
	err := c.get(ctx, path, query, &document)
	return document, err
}
