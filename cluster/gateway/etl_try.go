package gateway

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

const (
	tryTimeout  = 15 * time.Minute // for all targets to make a definition ready; longer than a build may take
	tryQuestion = 10 * time.Second // for one answer of a target; it holds a question for a second
	trySilence  = 10 * time.Second // for which a target may not answer at all
	tryPause    = 200 * time.Millisecond
	tryEnd      = 2 * time.Second
)

// tryETL has every target that is up make a definition ready, as a candidate that no request sees. The error is that of
// the first that can't. When the context ends, as it does when the client goes, all give it up.
func (g *Gateway) tryETL(ctx context.Context, e api.ETL) error {
	targets := g.upTargets()
	if len(targets) == 0 {
		return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "no target is up to try etl %q; see `shardstream status`", e.Name)
	}
	document, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("etl %s: %w", e.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	path := "/v1/internal/etls/" + url.PathEscape(e.Name) + "/try/" + hex.EncodeToString(b[:])
	failed := make([]error, len(targets))
	g.eachTarget(func(i int, node api.Node) {
		if failed[i] = g.tryOn(ctx, node, path, document); failed[i] != nil {
			cancel() // nothing comes of the others
		}
		g.endTry(ctx, node, path)
	}, targets)
	err = verdict(failed)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable, "etl %q was not deployed: it was not ready within %v, or nobody waits for it any more", e.Name, tryTimeout)
	}
	return err
}

// verdict is the error that matters: the user's own before a node's, and that before that the others were given up.
func verdict(failed []error) error {
	var worst error
	rank := 0
	for _, err := range failed {
		var answer *api.Error
		this := 0
		switch {
		case err == nil:
		case errors.As(err, &answer) && answer.Code == api.CodeETLFailed:
			this = 3
		case errors.As(err, &answer):
			this = 2
		default:
			this = 1
		}
		if this > rank {
			worst, rank = err, this
		}
	}
	return worst
}

// tryOn asks a target until it is done. One that goes down meanwhile is not waited for: it makes what it finds deployed
// ready when it comes back.
func (g *Gateway) tryOn(ctx context.Context, node api.Node, path string, document []byte) error {
	heard := time.Now()
	for {
		var trial api.ETLCandidate
		err := g.ask(ctx, tryQuestion, node, http.MethodPost, path, nil, bytes.NewReader(document), &trial)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var answer *api.Error
		switch {
		case err == nil && trial.Done && trial.Error != nil:
			trial.Error.Status = trial.Status
			return trial.Error
		case err == nil && trial.Done:
			return nil
		case err == nil:
			heard = time.Now()
			continue
		case !errors.As(err, &answer) || answer.Code != api.CodeUnavailable:
			return err
		case g.isDown(node):
			return nil
		case time.Since(heard) > trySilence:
			return err
		}
		pause := time.NewTimer(tryPause)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return ctx.Err()
		}
	}
}

func (g *Gateway) isDown(node api.Node) bool {
	for _, up := range g.upTargets() {
		if up.ID == node.ID {
			return false
		}
	}
	return true
}

// endTry lets a candidate go; a target that is not told does so by itself after a while.
func (g *Gateway) endTry(ctx context.Context, node api.Node, path string) {
	if err := g.Ask(context.WithoutCancel(ctx), tryEnd, node, http.MethodDelete, path, nil, nil); err != nil {
		g.log.DebugContext(ctx, "a target was not told that a trial is over", "target", node.ID, "error", err)
	}
}
