package target

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/etls"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl"
	"github.com/shardstream/shardstream/etl/deploy"
	"github.com/shardstream/shardstream/etl/outputs"
)

// Bounds of trials.
const (
	maxTrials       = 2        // at a time
	maxTrial        = 4 << 20  // bytes of a request
	maxTrialData    = 32 << 20 // bytes of an output that are sent back
	maxTrialText    = 200      // bytes of a field that are shown
	maxTrialPrepare = 10 * time.Minute
)

// trial is a transformation that is tried on one object or sample.
type trial struct {
	inline
	result api.ETLResult
	data   bool
}

// postTrial tries a transformation, the deployed one or one that comes with the request, on an object of this target.
func (e *ETLs) postTrial(r *Request) error {
	var request api.ETLTrial
	if err := r.JSON(maxTrial, &request); err != nil {
		return err
	}
	select {
	case e.trials <- struct{}{}:
		defer func() { <-e.trials }()
	default:
		return api.Errorf(http.StatusTooManyRequests, api.CodeBusy, "target %s has %d transformations under test already; try again later", e.target.id, maxTrials)
	}
	bucket, key, err := api.ParseAddress(request.Address)
	if err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%v", err)
	}
	open := e.target.Open
	if b, ok := e.target.members.View().Bucket(bucket); ok && b.Backend != nil {
		open = e.target.openNewest // its bytes may be at the backend alone
	}
	object, err := open(r.Context(), bucket, key)
	if errors.Is(err, store.ErrNotFound) {
		return e.target.absent(r.Context(), bucket, key)
	}
	if err != nil {
		return err
	}
	defer func() { _ = object.Close() }() // it was only read
	section, _, err := sectionOf(object, request.Member)
	if err != nil {
		return err
	}
	chain, err := e.trialOf(r.Param("name"), request)
	if err != nil {
		return err
	}
	x := &trial{inline: inline{etls: e, section: section, chain: chain}, data: request.Data}
	x.id = outputs.Identity{Bucket: bucket, Name: key}
	x.stall = newStall(r.Context(), chain.patience())
	defer x.close()
	if err := x.try(x.stall.ctx); err != nil {
		return err
	}
	return r.WriteJSON(http.StatusOK, x.result)
}

// trialOf makes a chain of the one transformation that is tried.
func (e *ETLs) trialOf(name string, request api.ETLTrial) (*chain, error) {
	if request.Definition == nil {
		return e.chainOf([]string{name}, request.Args)
	}
	args, err := argsOf([]string{name}, request.Args)
	if err != nil {
		return nil, err
	}
	// A version of its own tells it from what is deployed and from other trials.
	request.Definition.Name, request.Definition.Version = name, -e.undeployed.Add(1)
	runtime, err := deploy.New(etls.Definition(*request.Definition), e.options)
	if err != nil {
		return nil, etlError("etl "+name, err)
	}
	definition := runtime.Definition()
	c := &chain{release: func() {
		if err := runtime.Close(); err != nil {
			e.target.log.Warn("closing an etl left something behind", "etl", name, "error", err)
		}
		e.sources.drop(*request.Definition)
	}}
	merged, err := definition.MergeArgs(args[0])
	if err == nil {
		c.links = []link{{runtime: runtime, definition: definition, args: merged}}
		err = c.checkLevels()
	}
	if err != nil {
		c.release()
		return nil, etlError("etl "+name, err)
	}
	return c, nil
}

// try runs the transformation. An error is one of the object; what goes wrong with the transformation is a result.
func (x *trial) try(ctx context.Context) error {
	l := &x.chain.links[0]
	x.result = api.ETLResult{
		ETL: l.definition.Name, Version: max(0, l.definition.Version), Level: l.definition.Level, Target: x.etls.target.id,
		Key: x.section.Object.Info().Name, Fields: []api.ETLField{},
	}
	release, err := reserveMemory(ctx, x.weight())
	if err != nil {
		return err
	}
	defer release()
	before, begun := l.runtime.Logs(), time.Now()
	prepare, cancel := context.WithTimeout(ctx, maxTrialPrepare)
	defer cancel()
	if err = l.runtime.Prepare(prepare); err == nil {
		x.result.PrepareS = time.Since(begun).Seconds()
		begun = time.Now()
		if x.chain.level == etl.LevelObject {
			err = x.tryObject(ctx)
		} else {
			err = x.trySample(ctx)
		}
		x.result.TookS = time.Since(begun).Seconds()
	}
	var answer *api.Error
	if err != nil {
		answer = AsError(x.explain(err))
	}
	x.result.Log = x.printed(before)
	if answer == nil {
		return nil
	}
	if answer.Code != api.CodeETLFailed && answer.Code != api.CodeUnavailable {
		return err
	}
	x.result.Error = answer
	return nil
}

func (x *trial) tryObject(ctx context.Context) error {
	out, err := x.run(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = out.Body.Close() }() // what matters of it was read
	x.result.ContentType = out.ContentType
	if x.data {
		if x.result.Data, err = io.ReadAll(io.LimitReader(out.Body, maxTrialData+1)); err != nil {
			return err
		}
		if len(x.result.Data) > maxTrialData {
			return x.tooMuch()
		}
	}
	rest, err := io.Copy(io.Discard, out.Body)
	x.result.Size = int64(len(x.result.Data)) + rest
	return err
}

func (x *trial) tooMuch() error {
	return api.Errorf(http.StatusRequestEntityTooLarge, api.CodeBadRequest,
		"the output has more than the %d bytes that a test sends back; read the object through the transformation instead", maxTrialData)
}

func (x *trial) trySample(ctx context.Context) error {
	samples, err := x.samples()
	if err != nil {
		return err
	}
	if samples.at == samples.end {
		return api.Errorf(http.StatusNotFound, api.CodeNotFound, "%s has no sample to try", x.name())
	}
	samples.end = samples.at + 1
	batch, err := samples.next()
	if err != nil {
		return err
	}
	x.result.Key = batch[0].Key
	stop := x.stall.watch()
	results, err := x.chain.apply(ctx, batch)
	stop()
	if err != nil {
		return err
	}
	x.result.Key = results[0].Key
	for i := range results[0].Fields {
		field := describe(&results[0].Fields[i])
		x.result.Size += field.Size
		x.result.Fields = append(x.result.Fields, field)
	}
	if !x.data {
		return nil
	}
	archive := &sampleTar{about: x.name(), etl: x.result.ETL}
	archive.writer = tar.NewWriter(&archive.data)
	if err := archive.add(&results[0].Sample); err != nil {
		return err
	}
	if err := archive.writer.Close(); err != nil {
		return err
	}
	if x.result.Data = archive.data.Bytes(); len(x.result.Data) > maxTrialData {
		return x.tooMuch()
	}
	return nil
}

// describe says what a field holds.
func describe(f *etl.Field) api.ETLField {
	d := api.ETLField{Name: f.Name, DType: f.Value.DType.String(), Shape: f.Value.Shape, Size: int64(len(f.Value.Data))}
	if f.Value.DType == etl.Text || f.Value.DType.Dense() && len(f.Value.Shape) == 0 {
		_, text := f.File()
		d.Text = strings.ToValidUTF8(string(text[:min(len(text), maxTrialText)]), "")
	} else if f.Value.DType == etl.Bytes && len(f.Value.Data) <= maxTrialText && utf8.Valid(f.Value.Data) {
		d.Text = string(f.Value.Data)
	}
	return d
}

// What user code prints arrives by another way than its answer.
const (
	logPause = 10 * time.Millisecond
	logWait  = 250 * time.Millisecond
)

// printed is what the log has more than before. A runtime that was made for the trial is closed for it, which brings the
// last of its output; of another one it waits a moment for that.
func (x *trial) printed(before string) string {
	l := &x.chain.links[0]
	if l.definition.Version < 0 {
		x.close()
		return newer(before, l.runtime.Logs())
	}
	text := l.runtime.Logs()
	for begun := time.Now(); time.Since(begun) < logWait; {
		time.Sleep(logPause)
		now := l.runtime.Logs()
		if now == text && now != before {
			break
		}
		text = now
	}
	return newer(before, text)
}

// newer is what was added to a log; all of it where its beginning has been dropped since.
func newer(before, after string) string {
	if rest, ok := strings.CutPrefix(after, before); ok {
		return rest
	}
	return after
}
