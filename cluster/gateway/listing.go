package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

const (
	// newMap is how long a gateway waits for a map that targets go by already.
	newMap = 2 * time.Second
	// listAttempts bounds how often a listing begins anew without having got on.
	listAttempts = 8
)

// listing is how a bucket is listed by one version of the map. Where all data is where it belongs and all targets
// answer, each lists what it is the primary of. Elsewhere each lists all that it has, deletions included, and what is
// newest counts; it is complete if of all targets that may know a name, one at least has answered.
type listing struct {
	g       *Gateway
	bucket  membership.Bucket
	placer  *api.Placer
	version int64
	all     bool
	targets []api.Node // that are asked

	mu     sync.Mutex
	silent map[string]error // those that do not answer
}

// newListing plans a listing by the map as it is now.
func (g *Gateway) newListing(ctx context.Context, bucket string, silent map[string]error) (*listing, error) {
	b, err := g.bucket(ctx, bucket)
	if err != nil {
		return nil, err
	}
	if b.Copies() > 1 {
		if err := g.leased(); err != nil {
			return nil, err
		}
	}
	view := g.members.View()
	l := &listing{g: g, bucket: b, placer: view.Placer, version: view.Map().Version, silent: silent}
	for _, n := range view.Map().Targets() {
		switch {
		case n.State != api.StateOK: // it might accept a connection and never answer
			l.silent[n.ID] = api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "target %s is down", n.ID)
		case l.silent[n.ID] == nil:
			l.targets = append(l.targets, n)
		}
	}
	settled := view.Placer.Layout().Settled() && len(b.Was) == 0
	l.all = !settled || len(l.silent) > 0
	return l, l.covered()
}

// covered makes sure that enough targets answer.
func (l *listing) covered() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	asked := func(id string) bool {
		return l.silent[id] == nil && slices.ContainsFunc(l.targets, func(n api.Node) bool { return n.ID == id })
	}
	if l.placer.Layout().Covered(l.bucket.Copies(), l.bucket.Was, asked) {
		return nil
	}
	ids := make([]string, 0, len(l.silent))
	var last error
	for id, err := range l.silent {
		ids, last = append(ids, id), err
	}
	slices.Sort(ids)
	return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
		"a listing of bucket %s would not be complete, as %v do not answer: %v", l.bucket.Name, ids, last)
}

var (
	// errNewMap ends a listing that targets answer by another map than the one it was planned by.
	errNewMap = errors.New("the cluster map has changed")
	// errSilent ends one that a target has dropped out of.
	errSilent = errors.New("a target does not answer")
)

// failed sorts an answer's error: one that passes with another plan becomes errNewMap or errSilent.
func (l *listing) failed(node api.Node, err error) error {
	var answer *api.Error
	if !errors.As(err, &answer) {
		return err
	}
	switch answer.Code {
	case api.CodeStaleMap:
		return errNewMap
	case api.CodeUnavailable:
		l.mu.Lock()
		l.silent[node.ID] = err
		l.mu.Unlock()
		return errSilent
	}
	return err
}

// byOneMap lists a bucket, anew where the map has changed meanwhile or a target that is not needed has dropped out.
func (g *Gateway) byOneMap(ctx context.Context, bucket string, list func(*listing) error) error {
	silent := map[string]error{}
	for attempt := 1; ; attempt++ {
		l, err := g.newListing(ctx, bucket, silent)
		if err == nil {
			err = list(l)
		}
		switch {
		case errors.Is(err, errNewMap):
			silent = map[string]error{}
			if attempt < listAttempts {
				g.awaitMap(ctx, l.version)
				continue
			}
			return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
				"the cluster map changes all the time; bucket %s could not be listed by one", bucket)
		case errors.Is(err, errSilent):
			if err := l.covered(); err != nil {
				return err
			}
			continue // ends, as one less is asked each time
		}
		return err
	}
}

// awaitMap waits for a newer map than one that targets have left behind; or a while, where it is they who are behind.
func (g *Gateway) awaitMap(ctx context.Context, version int64) {
	ctx, cancel := context.WithTimeout(ctx, newMap)
	defer cancel()
	_, _ = g.members.Until(ctx, func(v *membership.View) bool { return v.Map().Version > version }) // it is tried again in any case
}

// ask asks one target, as long as it is up.
func (l *listing) ask(ctx context.Context, n api.Node, method, path string, query url.Values, in io.Reader, out any) error {
	up, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() { // ends with the request
		_, err := l.g.members.Until(up, func(v *membership.View) bool {
			now, ok := v.Placer.Node(n.ID)
			return !ok || now.State != api.StateOK
		})
		if err == nil {
			cancel()
		}
	}()
	err := l.g.askBy(up, l.version, pageTimeout, n, method, path, query, in, out)
	if err != nil && ctx.Err() != nil {
		return ctx.Err() // the failure of another, not this one's
	}
	if err != nil {
		return l.failed(n, err)
	}
	return nil
}

// askAll makes the same request to all targets that are asked, with in as its body, and gives their answers.
func askAll[T any](ctx context.Context, l *listing, method, path string, query url.Values, in []byte) ([]T, error) {
	answers := make([]T, len(l.targets))
	group, ctx := errgroup.WithContext(ctx)
	for i, node := range l.targets {
		group.Go(func() error {
			body := io.Reader(http.NoBody)
			if in != nil {
				body = bytes.NewReader(in)
			}
			return l.ask(ctx, node, method, path, query, body, &answers[i])
		})
	}
	return answers, group.Wait()
}
