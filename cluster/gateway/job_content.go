package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
)

const (
	contentPage    = 2048             // names that are dealt with before progress goes past them
	contentTimeout = 45 * time.Second // longer than a target works before it answers
	// Parts of a job's progress: of the pages that are finished, and of the one under way, which begins anew with
	// whichever gateway comes next.
	finishedPages, openPage = "", "page"
)

// postContent begins a job that fetches or evicts, or says what it would be about.
func (c *Coordinator) postContent(w http.ResponseWriter, r *http.Request, spec api.JobSpec, dry bool) error {
	content, err := jobs.ParseContent(spec)
	if err != nil {
		return err
	}
	if _, err := c.gateway.originBucket(r.Context(), content.Bucket); err != nil {
		return err
	}
	if dry {
		plan, err := c.gateway.planContent(r.Context(), content)
		if err != nil {
			return err
		}
		return WriteJSON(w, http.StatusOK, plan)
	}
	j, err := c.folder().Create(r.Context(), spec, 0)
	if err != nil {
		return err
	}
	c.gateway.log.InfoContext(r.Context(), "job created", "job", j.ID, "kind", spec.Kind, "bucket", content.Bucket)
	return WriteJSON(w, http.StatusOK, j)
}

// planContent lists what a job is about.
func (g *Gateway) planContent(ctx context.Context, content *jobs.Content) (api.JobPlan, error) {
	plan := api.JobPlan{First: []api.JobStep{}}
	for after, more := "", true; more; {
		var page []contentItem
		var err error
		if page, after, more, err = g.contentPage(ctx, content, after); err != nil {
			return plan, err
		}
		for _, item := range page {
			plan.Objects++
			plan.Bytes += max(item.size, 0)
			if len(plan.First) < plannedSteps {
				plan.First = append(plan.First, api.JobStep{Source: api.Address(content.Bucket, item.name), Size: item.size})
			}
		}
	}
	return plan, content.Missing(plan.Objects)
}

// contentItem is an object that a job is about.
type contentItem struct {
	name string
	size int64 // 0 where it is not known
	here bool  // cached as the backend has it
}

// contentPage lists the next objects that a job is about, behind a name; last is the name up to which it has them all.
func (g *Gateway) contentPage(ctx context.Context, content *jobs.Content, after string) (page []contentItem, last string, more bool, err error) {
	if content.Pattern == nil {
		from, found := slices.BinarySearch(content.Names, after)
		if found {
			from++
		}
		names := content.Names[from:min(from+contentPage, len(content.Names))]
		for _, name := range names {
			page, last = append(page, contentItem{name: name}), name
		}
		return page, last, from+len(names) < len(content.Names), nil
	}
	b, err := g.originBucket(ctx, content.Bucket)
	if err != nil {
		return nil, after, false, err
	}
	part := originPart{prefix: content.Pattern.Prefix, after: after, limit: contentPage, cached: content.Kind == api.JobEvict}
	last = after
	err = g.walkOrigin(ctx, &b.Bucket, part, func(o *api.Object) error {
		if content.Pattern.Match(o.Name) {
			if len(page) == contentPage {
				return errFullPage
			}
			page = append(page, contentItem{o.Name, max(o.Size, 0), o.Cached != nil && *o.Cached})
		}
		last = o.Name
		return nil
	})
	if errors.Is(err, errFullPage) {
		return page, last, true, nil
	}
	return page, last, false, err
}

// countContent counts what the job is about before anything is done.
func (r *jobRun) countContent(ctx context.Context) error {
	if r.progress.Counted {
		return nil
	}
	return r.patientlyDo(ctx, func() error {
		plan, err := r.coordinator.gateway.planContent(ctx, r.content)
		if err == nil {
			r.mu.Lock()
			r.progress.Counted, r.progress.Total, r.progress.TotalBytes, r.dirty = true, plan.Objects, plan.Bytes, true
			r.mu.Unlock()
		}
		return err
	})
}

// patientlyDo repeats what fails for a reason that passes.
func (r *jobRun) patientlyDo(ctx context.Context, do func() error) error {
	for since := time.Now(); ; {
		err := do()
		if err == nil {
			r.wait("")
			return nil
		}
		answer := AsError(err)
		if !passesInTime(answer) || time.Since(since) > r.patience {
			return err
		}
		r.wait("", answer.Message)
		if !pauseFor(ctx, retryJob) {
			return ctx.Err()
		}
	}
}

// passesInTime tells errors that are waited for.
func passesInTime(e *api.Error) bool {
	return slices.Contains([]string{api.CodeUnavailable, api.CodeBusy, api.CodeBackendBusy, api.CodeStaleMap}, e.Code)
}

// moveContent deals with all objects, page by page in the order of their names.
func (r *jobRun) moveContent(ctx context.Context) error {
	if err := r.countContent(ctx); err != nil {
		return err
	}
	r.mu.Lock()
	after := r.progress.Parts[finishedPages].Cursor
	delete(r.progress.Parts, openPage)
	r.mu.Unlock()
	for more := true; more; {
		var page []contentItem
		err := r.patientlyDo(ctx, func() (err error) {
			var last string
			if page, last, more, err = r.coordinator.gateway.contentPage(ctx, r.content, after); err == nil {
				after = last
			}
			return err
		})
		if err == nil {
			err = r.dealWith(ctx, page)
		}
		if err != nil {
			return err
		}
		r.closePage(after)
	}
	return nil
}

// closePage adds what came of a page to what is finished.
func (r *jobRun) closePage(cursor string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all, page := r.progress.Parts[finishedPages], r.progress.Parts[openPage]
	all.Cursor = cursor
	all.Stored += page.Stored
	all.Skipped += page.Skipped
	all.Failed += page.Failed
	all.BytesIn += page.BytesIn
	all.BytesOut += page.BytesOut
	r.progress.Parts[finishedPages] = all
	delete(r.progress.Parts, openPage)
	r.dirty = true
}

// dealWith has the objects' primaries deal with a page.
func (r *jobRun) dealWith(ctx context.Context, page []contentItem) error {
	left := make(map[string]int64, len(page)) // sizes
	for _, item := range page {
		if item.here && r.content.Kind == api.JobPrefetch {
			r.note("", item.size, api.CacheResult{Name: item.name, Skipped: true})
			continue
		}
		left[item.name] = item.size
	}
	for since := time.Now(); len(left) > 0; {
		before := len(left)
		if err := r.askPrimaries(ctx, left); err != nil {
			return err
		}
		switch {
		case len(left) < before:
			since = time.Now()
		case time.Since(since) > r.patience:
			return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "targets do not answer for %v", r.patience)
		}
		if len(left) > 0 && !pauseFor(ctx, retryJob) {
			return ctx.Err()
		}
	}
	return nil
}

// askPrimaries has those that are the primaries now deal with what is left, as long as they answer.
func (r *jobRun) askPrimaries(ctx context.Context, left map[string]int64) error {
	g := r.coordinator.gateway
	b, err := g.bucket(ctx, r.content.Bucket)
	if err != nil {
		return err
	}
	nodes, shares := map[string]api.Node{}, map[string][]string{}
	for name := range left {
		n, err := g.Primary(&b.Bucket, name)
		if err != nil {
			r.wait(n.ID, AsError(err).Message)
			continue
		}
		nodes[n.ID], shares[n.ID] = n, append(shares[n.ID], name)
	}
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	for id, share := range shares {
		slices.Sort(share)
		group.Go(func() error {
			return r.askPrimary(ctx, nodes[id], share, func(result api.CacheResult) {
				mu.Lock()
				defer mu.Unlock()
				if size, open := left[result.Name]; open {
					r.note(id, size, result)
					delete(left, result.Name)
				}
			})
		})
	}
	return group.Wait()
}

// askPrimary asks one target until it has dealt with its share, or does not answer.
func (r *jobRun) askPrimary(ctx context.Context, n api.Node, share []string, done func(api.CacheResult)) error {
	for len(share) > 0 {
		body, err := json.Marshal(api.CachePart{Names: share[:min(len(share), api.MaxCachePart)]})
		if err != nil {
			return err
		}
		var report api.CacheReport
		g := r.coordinator.gateway
		err = g.askBy(ctx, g.members.View().Map().Version, contentTimeout, n, http.MethodPost,
			cachePath(r.content.Bucket, r.content.Kind), nil, bytes.NewReader(body), &report)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil && passesInTime(AsError(err)):
			r.wait(n.ID, AsError(err).Message)
			return nil
		case err != nil:
			return err
		}
		if r.wait(n.ID); len(report.Done)+report.Open == 0 {
			return nil // it is not for this target any more
		}
		dealt := make(map[string]bool, len(report.Done))
		for _, result := range report.Done {
			dealt[result.Name] = true
			done(result)
		}
		share = slices.DeleteFunc(share, func(name string) bool { return dealt[name] })
	}
	return nil
}

// note counts what came of an object.
func (r *jobRun) note(node string, size int64, result api.CacheResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	page := r.progress.Parts[openPage]
	switch {
	case result.Error != nil:
		page.Failed++
		if r.failures.Add(api.JobFailure{Object: api.Address(r.content.Bucket, result.Name), Node: node, Error: result.Error}) {
			r.unwritten = true
		}
	case result.Skipped:
		page.Skipped++
	default:
		page.Stored++
		page.BytesOut += result.Bytes
	}
	page.BytesIn += size
	r.progress.Parts[openPage] = page
	r.dirty = true
}
