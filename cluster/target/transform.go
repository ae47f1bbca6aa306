package target

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/outputs"
)

// Bounds of GET ?etl=.
const (
	maxChain       = 8 // transformations in ?etl=a,b,...
	transformQueue = 30 * time.Second
	// transformPause bounds the wait for a transformation to say or do anything; its own time limit comes on top.
	transformPause = 10 * time.Minute
	// transformMemory bounds what all such requests of a node hold together.
	transformMemory = 1 << 30
)

var transforms = semaphore.NewWeighted(transformMemory)

// inline is a GET ?etl= under way: a section of an object, and what it goes through.
type inline struct {
	etls    *ETLs
	section *Section
	chain   *chain
	id      outputs.Identity
	stall   *stall
	closed  bool
}

// transform answers GET and HEAD ?etl=a,b: each transformation is applied to what the one before it gave. Those of
// objects answer with bytes. Those of samples answer with a tar: of all samples of an archive, of the one that holds the
// member asked for, or of an object that is no archive as a sample with one field. The answer keeps the object open
// where kept is true.
func (e *ETLs) transform(r *Request, s *Section, names []string) (kept bool, err error) {
	keep, err := r.flag("cache")
	if err != nil {
		return false, err
	}
	chain, err := e.chainOf(names, etl.Args(r.Query("etl_args")))
	if err != nil {
		return false, err
	}
	info := s.Object.Info()
	x := &inline{etls: e, section: s, chain: chain, id: outputs.Identity{
		Bucket: info.Bucket, Name: info.Name, Object: info.ETag(), Member: s.Member, Chain: chain.steps(),
	}}
	defer func() {
		if !kept {
			x.close()
		}
	}()
	if err := x.checkConditions(r); err != nil {
		return false, err
	}
	x.setHeader(r)
	if r.IsHead() {
		return false, x.head(r, keep)
	}
	x.stall = newStall(r.Context(), chain.patience())
	if location, err := x.elsewhere(r, keep); err != nil || location != "" {
		return false, x.redirect(r, location, err)
	}
	if kept, err = x.get(r, keep); err != nil {
		r.Response.Header.Del("ETag") // of no output
		r.Response.Header.Set("Cache-Control", "no-store")
		return false, x.explain(err)
	}
	return kept, nil
}

// close lets go of what the request held, but the object.
func (x *inline) close() {
	if x.closed {
		return
	}
	x.closed = true
	x.stall.end()
	x.chain.release()
}

// get answers with the output, kept or made now.
func (x *inline) get(r *Request, keep bool) (kept bool, err error) {
	if keep {
		r.Response.Header.Set(api.HeaderCache, "miss")
	}
	if keep && x.etls.outputs != nil {
		out, hit, err := x.etls.outputs.Do(x.stall.ctx, x.id, x.fill)
		var none *outputs.NoRoomError
		switch {
		case err == nil:
			if hit {
				r.Response.Header.Set(api.HeaderCache, "hit")
			}
			return x.sendKept(r, out)
		case errors.As(err, &none):
			x.etls.target.log.DebugContext(r.Context(), "an output is not kept", "object", x.name(), "reason", err)
		default:
			return false, err
		}
	}
	release, err := reserveMemory(x.stall.ctx, x.weight())
	if err != nil {
		return false, err
	}
	out, err := x.run(x.stall.ctx)
	if err != nil {
		release()
		return false, err
	}
	return x.send(r, out, release)
}

// fill makes the output for the cache.
func (x *inline) fill(ctx context.Context, w io.Writer) (contentType string, err error) {
	release, err := reserveMemory(ctx, x.weight())
	if err != nil {
		return "", err
	}
	defer release()
	out, err := x.run(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = out.Body.Close() }() // what matters of it was read
	n, err := io.CopyBuffer(w, struct{ io.Reader }{out.Body}, make([]byte, pieceBytes))
	if err == nil && out.Size >= 0 && n != out.Size {
		err = fmt.Errorf("an output of %d bytes ended after %d: %w", out.Size, n, io.ErrUnexpectedEOF)
	}
	return out.ContentType, err
}

// weight is about what the request holds of the node's memory: what is transformed, which functions are given whole, and
// what of the answer has not left yet.
func (x *inline) weight() int64 {
	const answer = 8 << 20
	switch {
	case x.chain.level != etl.LevelObject:
		return 2*batchBytes + answer + min(x.section.Object.Info().MaxSample, maxTransformed)
	case slices.ContainsFunc(x.chain.links, func(l link) bool { return l.definition.Kind == etl.KindFunction }):
		return answer + 2*min(x.section.Size, maxTransformed)
	}
	return answer
}

// reserveMemory waits for its turn to hold so much.
func reserveMemory(ctx context.Context, n int64) (release func(), err error) {
	if transforms.TryAcquire(n) {
		return func() { transforms.Release(n) }, nil
	}
	ctx, cancel := context.WithTimeout(ctx, transformQueue)
	defer cancel()
	if err := transforms.Acquire(ctx, n); err != nil {
		return nil, api.Errorf(http.StatusTooManyRequests, api.CodeBusy, "too many transformations under way on this target; try again later")
	}
	return func() { transforms.Release(n) }, nil
}

// elsewhere says where the client gets the output itself: of a server that it can be sent on to, where what it wants is
// what that server gives.
func (x *inline) elsewhere(r *Request, keep bool) (string, error) {
	last := x.chain.links[0]
	redirector, ok := last.runtime.(etl.Redirector)
	if !ok || last.definition.Transport != etl.TransportRedirect || last.definition.Level != etl.LevelObject ||
		len(x.chain.links) > 1 || x.section.Member != "" || keep || r.Header("Range") != "" {
		return "", nil
	}
	defer x.stall.watch()()
	return redirector.Location(x.stall.ctx, last.args, x.object(nil))
}

// redirect sends the client on, or says why that can't be.
func (x *inline) redirect(r *Request, location string, err error) error {
	if err != nil {
		return x.explain(err)
	}
	h := &r.Response.Header
	h.Del("ETag") // the server's answer has its own, or none
	h.Set("Cache-Control", "no-store")
	h.Set("Location", location)
	r.SetStatusCode(http.StatusTemporaryRedirect)
	return nil
}

// explain is the error document for what went wrong.
func (x *inline) explain(err error) error {
	var answer *api.Error
	if cause := context.Cause(x.stall.ctx); errors.As(cause, &answer) {
		return answer
	}
	return etlError(x.name(), err)
}

// name is how messages call what is transformed.
func (x *inline) name() string { return x.object(nil).Name() }

func (x *inline) object(body io.Reader) etl.Object {
	info := x.section.Object.Info()
	return etl.Object{Bucket: info.Bucket, Key: info.Name, Member: x.section.Member, Size: x.section.Size, Body: body}
}
