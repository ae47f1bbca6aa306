package target

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// An output is on its way for a minute, and a second for each slowBytes.
const (
	deliverTimeout = time.Minute
	slowBytes      = 1 << 20
)

// output is what is at an output's place already.
type output struct {
	mark jobs.Mark
	etag string
	size int64
}

// present finds what is at an output's place; nil where there is nothing.
func (p *part) present(ctx context.Context, name string) (*output, error) {
	o, err := p.jobs.target.lookUp(ctx, p.transform.Bucket, name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, nil //nolint:nilnil // nothing there
	}
	if err != nil {
		return nil, err
	}
	return &output{mark: jobs.ParseMark(o.Meta), etag: o.ETag, size: o.Size}, nil
}

// deliver stores a complete output with the target that is primary of its name, in place of what was present and
// nothing else.
func (p *part) deliver(ctx context.Context, name string, made *spool, kind string, mark jobs.Mark, present *output) error {
	t, bucket := p.jobs.target, p.transform.Bucket
	condition := store.Condition{IfNoneMatch: "*"}
	if present != nil {
		condition = store.Condition{IfMatch: present.etag}
	}
	ctx, cancel := context.WithTimeout(ctx, deliverTimeout+time.Duration(made.size/slowBytes)*time.Second)
	defer cancel()
	at, err := t.place(ctx, bucket, name)
	if err != nil {
		return err
	}
	if at.primary.ID != t.id {
		return p.send(ctx, at.primary, name, made, kind, mark, condition)
	}
	sum := made.Sum()
	_, err = t.keepBy(ctx, at, made.Reader(), store.PutOptions{
		Size: made.size, ContentType: kind, Meta: mark.Meta(), XXH3: &sum, Archive: archive.FormatOf(name), Condition: condition,
		Internal: true,
	})
	return err
}

// send puts an output to another target.
func (p *part) send(ctx context.Context, owner api.Node, name string, made *spool, kind string, mark jobs.Mark, c store.Condition) error {
	if owner.State != api.StateOK {
		return away(owner)
	}
	about := api.Address(p.transform.Bucket, name)
	request, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://"+owner.Addr+api.ObjectPath(p.transform.Bucket, name), made.Reader())
	if err != nil {
		return fmt.Errorf("put %s: %w", about, err)
	}
	if request.ContentLength = made.size; made.size == 0 {
		request.Body = http.NoBody
	}
	sum := made.Sum()
	header := map[string]string{
		"Content-Type": kind, "If-Match": c.IfMatch, "If-None-Match": c.IfNoneMatch,
		api.HeaderChecksum: api.Checksums{XXH3: &sum}.String(), api.HeaderRequestID: telemetry.RequestIDOf(ctx),
	}
	for of, value := range mark.Meta() {
		header[api.HeaderMetaPrefix+of] = value
	}
	for of, value := range header {
		if value != "" {
			request.Header.Set(of, value)
		}
	}
	response, err := p.jobs.peers.Do(request)
	if err != nil {
		return unavailable("%s (%s) does not take %s: %v", owner.ID, owner.Addr, about, err)
	}
	defer func() { _ = response.Body.Close() }()
	switch {
	case response.StatusCode >= 400:
		return said(about, api.ErrorOf(response))
	case response.StatusCode >= 300:
		return unavailable("%s has moved to another target than %s while it was sent", about, owner.ID)
	}
	var stored api.Object
	if err := json.NewDecoder(io.LimitReader(response.Body, 1<<20)).Decode(&stored); err != nil {
		return unavailable("%s (%s) broke off while it took %s: %v", owner.ID, owner.Addr, about, err)
	}
	return nil
}

// said adds the object to another target's error. A body that it found damaged can be sent again.
func said(about string, err error) error {
	var answer *api.Error
	if !errors.As(err, &answer) {
		return err
	}
	if answer.Code == api.CodeIncomplete || answer.Code == api.CodeBadChecksum {
		return unavailable("%s: %s", about, answer.Message)
	}
	if !strings.Contains(answer.Message, about) {
		answer.Message = about + ": " + answer.Message
	}
	return answer
}
