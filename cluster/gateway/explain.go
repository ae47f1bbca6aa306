package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/sampler"
)

const (
	maxExplained   = 1 << 16 // samples of one answer
	explainTimeout = 30 * time.Second
)

func (g *Gateway) postExplain(w http.ResponseWriter, r *http.Request) error {
	req := api.ExplainRequest{StreamRequest: api.StreamRequest{WorldSize: 1, BatchSize: 1}}
	if err := ReadJSON(w, r, maxDocument, &req); err != nil {
		return err
	}
	e, err := g.explain(r.Context(), &req)
	if err != nil {
		return err
	}
	return WriteJSON(w, http.StatusOK, e)
}

// explain computes the plan as the targets do, and asks them for the keys of the samples in it.
func (g *Gateway) explain(ctx context.Context, req *api.ExplainRequest) (*api.Explanation, error) {
	if err := checkStream(&req.StreamRequest); err != nil {
		return nil, err
	}
	order, err := g.explainOrder(ctx, req)
	if err != nil {
		return nil, err
	}
	snap := order.Snapshot()
	e := &api.Explanation{
		Snapshot: snap.ID(), Seed: req.Seed, Epoch: req.Epoch, Shuffle: req.Shuffle, Slices: req.Slices, Window: req.Window,
		Rank: req.Rank, WorldSize: req.WorldSize, Batch: req.Batch,
	}
	count, err := locateSamples(e, req, order.Samples())
	if err != nil {
		return nil, err
	}
	e.Samples = make([]api.ExplainedSample, count)
	for i := range e.Samples {
		s := &e.Samples[i]
		s.Position = e.Position + int64(i)
		draw := order.Draw(s.Position)
		s.Sample = draw.Sample
		if req.Mixture != nil {
			s.Source = &draw.Part
		}
		at, index := snap.Locate(s.Sample)
		shard := snap.Shard(at)
		s.Shard, s.Version, s.Index = api.Scheme+shard.Name, shard.Version, index
	}
	return e, g.addKeys(ctx, snap, req.Samples == api.SamplesObjects, e.Samples)
}

// explainOrder is the plan of the epoch that is asked about.
func (g *Gateway) explainOrder(ctx context.Context, req *api.ExplainRequest) (sampler.Plan, error) {
	if req.Mixture != nil {
		return g.explainMixture(ctx, req)
	}
	if req.Shuffle == "" { // the one that a stream would get
		info, _, err := g.resolve(ctx, &req.StreamRequest, nil)
		if err != nil {
			return nil, err
		}
		req.Shuffle, req.Slices, req.Window = info.Shuffle, info.Slices, info.Window
	}
	snap, err := g.snapshotOf(ctx, req)
	if err != nil {
		return nil, err
	}
	shuffle, err := shuffleOf(req.Shuffle, req.Slices, req.Window)
	if err != nil {
		return nil, badStream("%v", err)
	}
	shuffle.Seed = req.Seed
	order, err := sampler.NewOrder(snap, shuffle, req.Epoch)
	if err != nil {
		return nil, badStream("%v", err)
	}
	return order, nil
}

// locateSamples fills in which positions are meant, and says how many.
func locateSamples(e *api.Explanation, req *api.ExplainRequest, samples int64) (int64, error) {
	if req.Position != nil {
		from, count := *req.Position, max(req.Count, 1)
		if from < 0 || count > samples || from > samples-count {
			return 0, badStream("%d positions from %d on are not within the epoch's %d samples", count, from, samples)
		}
		e.Batch, e.Position, e.Next = -1, from, from+count
		return count, tooMany(count)
	}
	view := sampler.View{
		Samples: samples, Start: req.Start, BatchSize: req.BatchSize, World: req.WorldSize, Rank: req.Rank, Workers: 1, DropLast: req.DropLast,
	}
	if err := view.Validate(); err != nil {
		return 0, badStream("%v", err)
	}
	if req.Batch < 0 || req.Batch >= view.Batches() {
		return 0, badStream("there is no batch %d: this rank's epoch has %d batches from position %d on, counted from 0", req.Batch, view.Batches(), req.Start)
	}
	b := view.Batch(req.Batch)
	e.Position, e.Next, e.Padding = b.Start, b.Next, b.Pad > 0
	return b.Count + b.Pad, tooMany(b.Count + b.Pad)
}

func tooMany(count int64) error {
	if count > maxExplained {
		return badStream("%d samples at once, at most %d are explained; ask for positions", count, maxExplained)
	}
	return nil
}

// snapshotOf is the snapshot that a request is about: an earlier one as long as a target keeps it.
func (g *Gateway) snapshotOf(ctx context.Context, req *api.ExplainRequest) (*sampler.Snapshot, error) {
	if req.Snapshot != "" {
		snap, err := g.keptSnapshot(ctx, req.Snapshot)
		if snap != nil || err != nil {
			return snap, err
		}
	}
	_, snap, err := g.resolve(ctx, &req.StreamRequest, nil)
	if err != nil {
		return nil, err
	}
	if req.Snapshot != "" && snap.ID() != req.Snapshot {
		return nil, api.Errorf(http.StatusNotFound, api.CodeNoSnapshot,
			"no target keeps snapshot %.12s any more, and the sources are now snapshot %.12s; without a snapshot, their present order is explained", req.Snapshot, snap.ID())
	}
	return snap, nil
}

// addKeys asks every target for the keys of the samples whose shards it has. Those of a target that can't
// say keep an error in their place: the plan holds without it.
func (g *Gateway) addKeys(ctx context.Context, snap *sampler.Snapshot, objects bool, samples []api.ExplainedSample) error {
	query := api.KeyQuery{Objects: objects}
	var members [][]int    // of each shard of the query, in samples
	var primaries []string // likewise, the targets that send them
	view := g.members.View()
	at := map[string]int{}
	for i := range samples {
		s := &samples[i]
		number, _ := snap.Locate(s.Sample)
		shard := snap.Shard(number)
		n, ok := at[shard.Name]
		if !ok {
			n = len(query.Shards)
			at[shard.Name] = n
			query.Shards = append(query.Shards, api.ShardSamples{Name: shard.Name, Version: shard.Version, Samples: shard.Samples})
			members = append(members, nil)
			bucket, key, _ := strings.Cut(shard.Name, "/")
			b, _ := view.Bucket(bucket)
			primary, _ := view.Placer.Primary(bucket, key, b.Copies())
			primaries = append(primaries, primary.ID)
		}
		query.Shards[n].Indexes = append(query.Shards[n].Indexes, s.Index)
		members[n] = append(members[n], i)
		s.Target, s.Error = primaries[n], "no target has the shard; was it deleted?"
	}
	body, err := json.Marshal(&query)
	if err != nil {
		return err
	}
	targets := view.Map().Targets()
	answers, errs := make([]api.KeyAnswer, len(targets)), make([]error, len(targets))
	group := errgroup.Group{}
	for i, n := range targets {
		group.Go(func() error {
			var data []byte
			if data, errs[i] = g.askBytes(ctx, n, http.MethodPost, "/v1/internal/keys", body); errs[i] == nil {
				errs[i] = json.Unmarshal(data, &answers[i])
			}
			return nil
		})
	}
	_ = group.Wait() // the errors are in errs
	for i, n := range targets {
		for shard := range members {
			note(samples, members[shard], primaries[shard], n.ID, errs[i], answers[i].Shards, shard)
		}
	}
	return nil
}

// note enters what a target said of one shard. Where several have it, its primary's word counts, if that knows.
func note(samples []api.ExplainedSample, members []int, primary, target string, err error, shards []api.ShardKeys, shard int) {
	if err == nil && (len(shards) <= shard || shards[shard].Absent) {
		return
	}
	for k, i := range members {
		s := &samples[i]
		switch {
		case err == nil && k < len(shards[shard].Keys) && (s.Error != "" || target == primary):
			s.Target, s.Key, s.Error = target, string(shards[shard].Keys[k]), ""
		case s.Error == "":
		case err != nil:
			if s.Target == target {
				s.Error = err.Error()
			}
		default:
			s.Target, s.Error = target, shards[shard].Error
		}
	}
}

// askBytes makes a request with a body to another node and returns the answer's.
func (g *Gateway) askBytes(ctx context.Context, node api.Node, method, path string, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, explainTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, "http://"+node.Addr+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	request.Header.Set(api.HeaderRequestID, telemetry.RequestIDOf(ctx))
	response, err := g.peers.Do(request)
	if err != nil {
		return nil, silent(node, err)
	}
	defer func() { _ = response.Body.Close() }()
	if response.StatusCode >= 300 {
		return nil, api.ErrorOf(response)
	}
	data, err := io.ReadAll(io.LimitReader(response.Body, maxPeerAnswers))
	if err != nil {
		return nil, silent(node, err)
	}
	return data, nil
}
