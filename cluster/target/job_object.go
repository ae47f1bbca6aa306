package target

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/jobs"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl"
)

const (
	jobBatch      = 256      // samples of an archive that are transformed at a time
	jobBatchBytes = 16 << 20 // of these
	jobReadAhead  = 256 << 10
	// jobOverhead is what an object in hand takes at least of jobMemory; its bytes come on top, up to maxJobObject.
	jobOverhead  = 8 << 20
	maxJobObject = 64 << 20
	// jobAttempts bounds how often another writer of the same name may be in the way.
	jobAttempts = 5
)

// do deals with one object. An error that does not pass ends the job; what is wrong with the object alone is an
// outcome.
func (p *part) do(ctx context.Context, it *item) (*outcome, error) {
	t := p.jobs.target
	object, err := t.openNewest(ctx, p.transform.Pattern.Bucket, it.name)
	if errors.Is(err, store.ErrNotFound) {
		return &outcome{result: telemetry.JobObjectSkipped}, nil // deleted since it was listed
	}
	if err != nil {
		return p.failure(err, 0)
	}
	defer object.Close()
	info := object.Info()
	rt, err := p.runtime(ctx)
	if err != nil {
		return nil, err
	}
	weight := jobOverhead + min(info.Size, maxJobObject)
	if rt.Definition().Level != etl.LevelObject {
		weight = jobOverhead + 2*jobBatchBytes
	}
	if err := p.jobs.memory.Acquire(ctx, weight); err != nil {
		return nil, err
	}
	defer p.jobs.memory.Release(weight)
	mark := jobs.NewMark(p.id, p.transform.ETL, p.version, p.args, info)
	var made *spool
	var kind string
	for range jobAttempts {
		present, err := p.present(ctx, it.out)
		if err != nil {
			return nil, err
		}
		if o, err := p.settled(it, mark, present, info.Size); o != nil || err != nil {
			return o, err
		}
		if made == nil {
			made = newSpool(p.jobs.dir)
			defer made.Close()
			if kind, err = p.produce(ctx, rt, object, made); err != nil {
				return p.failure(err, info.Size)
			}
		}
		err = p.deliver(ctx, it.out, made, kind, mark, present)
		if err == nil {
			return &outcome{result: telemetry.JobObjectDone, in: info.Size, out: made.size}, nil
		}
		if AsError(err).Code != api.CodePrecondition { // else somebody else was quicker: look again
			return p.failure(err, info.Size)
		}
	}
	return nil, unavailable("%s is being written by others all the time", api.Address(p.transform.Bucket, it.out))
}

// failure tells whose an error is: the object's, which is an outcome, or the job's.
func (p *part) failure(err error, size int64) (*outcome, error) {
	var definition *etl.DefinitionError
	var corrupt *store.CorruptError
	if errors.As(err, &corrupt) {
		p.jobs.target.metrics.CorruptRead(corrupt.Disk)
	}
	answer := etlError("", err)
	switch {
	case p.ctx.Err() != nil, passes(err):
		return nil, err
	case errors.Is(err, etl.ErrNoPython), errors.Is(err, etl.ErrLevel):
		return nil, err
	case errors.As(err, &definition):
		return nil, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%v", definition)
	case answer.Code == api.CodeNoSpace, answer.Code == api.CodeNoBucket, answer.Code == api.CodeNoETL:
		return nil, answer
	}
	return &outcome{result: telemetry.JobObjectFailed, in: size, failure: answerOf(err)}, nil
}

// answerOf is the document for an object's own failure.
func answerOf(err error) *api.Error {
	var fault *etl.UserError
	if errors.As(err, &fault) {
		return api.Errorf(http.StatusUnprocessableEntity, api.CodeETLFailed, "%v", fault)
	}
	answer := AsError(err)
	if answer.Code == api.CodeInternal {
		answer.Message = err.Error()
	}
	return answer
}

// runtime is what runs the version of the transformation that the job is of.
func (p *part) runtime(ctx context.Context) (etl.Runtime, error) {
	name := p.transform.ETL
	rt, err := p.jobs.etls.Runtime(name)                   //nolint:contextcheck // a runtime outlives the job
	if err == nil && rt.Definition().Version < p.version { // the watch has not told yet
		if _, err = p.jobs.etls.refresh(ctx, name); err == nil {
			rt, err = p.jobs.etls.Runtime(name) //nolint:contextcheck // likewise
		}
	}
	if err != nil {
		return nil, err
	}
	if v := rt.Definition().Version; v != p.version {
		return nil, api.Errorf(http.StatusConflict, api.CodeChanged,
			"etl %s was deployed anew (version %d) while the job ran version %d; start the job again", name, v, p.version)
	}
	return rt, nil
}

func away(node api.Node) error {
	return unavailable("target %s, which answers for it, is down", node.ID)
}

// settled says what is to be done where the output is there already; neither outcome nor error: make it.
func (p *part) settled(it *item, mark jobs.Mark, present *output, size int64) (*outcome, error) {
	switch {
	case present == nil:
	case present.mark.Job == p.id && present.mark.Source != mark.Source:
		return nil, p.transform.Collision(it.out, present.mark.Source, mark.Source)
	case present.mark.Job == p.id && present.mark.Same(mark):
		return &outcome{result: telemetry.JobObjectFound, in: size, out: present.size}, nil
	case p.transform.OnlyNew && present.mark.Same(mark):
		return &outcome{result: telemetry.JobObjectSkipped, in: size}, nil
	}
	return nil, nil //nolint:nilnil // neither
}

// produce makes the output, and says of which content type it is.
func (p *part) produce(ctx context.Context, rt etl.Runtime, object *store.Object, out *spool) (kind string, err error) {
	select {
	case p.producing <- struct{}{}:
		defer func() { <-p.producing }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	info := object.Info()
	if rt.Definition().Level != etl.LevelObject {
		return "", p.produceSamples(ctx, rt, object, out)
	}
	body := bufio.NewReaderSize(io.NewSectionReader(object, 0, info.Size), jobReadAhead)
	answer, err := rt.TransformObject(ctx, p.args, etl.Object{Bucket: info.Bucket, Key: info.Name, Size: info.Size, Body: body})
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, answer.Body)
	return answer.ContentType, errors.Join(err, answer.Body.Close())
}

// produceSamples makes a tar of the samples of an archive; an object that is none is one sample with one field.
func (p *part) produceSamples(ctx context.Context, rt etl.Runtime, object *store.Object, out io.Writer) error {
	index, err := object.Index()
	if err != nil {
		return err
	}
	buffered := bufio.NewWriterSize(out, jobReadAhead)
	w := tar.NewWriter(buffered)
	if index == nil {
		sample, err := wholeSample(object)
		if err == nil {
			err = p.transformBatch(ctx, rt, []etl.Sample{sample}, w)
		}
		return errors.Join(err, w.Close(), buffered.Flush())
	}
	var batch []etl.Sample
	var size int64
	for i := range index.NumSamples() {
		sample, err := archivedSample(object, index, i)
		if err != nil {
			return err
		}
		size += index.SampleSize(i)
		if batch = append(batch, sample); len(batch) < jobBatch && size < jobBatchBytes && i < index.NumSamples()-1 {
			continue
		}
		if err := p.transformBatch(ctx, rt, batch, w); err != nil {
			return err
		}
		batch, size = batch[:0], 0
	}
	return errors.Join(w.Close(), buffered.Flush())
}

// wholeSample is an object that is no archive as a sample.
func wholeSample(object *store.Object) (etl.Sample, error) {
	info := object.Info()
	if info.Size > maxTransformed {
		return etl.Sample{}, tooLargeToTransform(api.Address(info.Bucket, info.Name), info.Size)
	}
	data := make([]byte, info.Size)
	if err := readFull(object, data, 0); err != nil {
		return etl.Sample{}, err
	}
	key, field := splitName(info.Name)
	return etl.Sample{Key: key, Seed: sampleSeed(info, key), Fields: []etl.Field{{Name: field, Value: etl.BytesValue(data)}}}, nil
}

func archivedSample(object *store.Object, index *archive.Index, i int) (etl.Sample, error) {
	if index.SampleSize(i) > maxTransformed {
		info := object.Info()
		return etl.Sample{}, tooLargeToTransform("sample "+index.Key(i)+" of "+api.Address(info.Bucket, info.Name), index.SampleSize(i))
	}
	sample, err := readSample(object, index, i)
	sample.Seed = sampleSeed(object.Info(), sample.Key)
	return sample, err
}

// sampleSeed makes what a function draws a matter of the sample: a job that is done again makes the same.
func sampleSeed(info store.Info, key string) uint64 {
	return xxh3.HashString(info.Bucket+"/"+info.Name+"\x00"+key) | 1
}

// transformBatch transforms samples and adds what comes out to a tar. One that fails fails the object.
func (p *part) transformBatch(ctx context.Context, rt etl.Runtime, batch []etl.Sample, w *tar.Writer) error {
	results := make([]etl.Result, len(batch))
	if err := rt.Transform(ctx, p.args, batch, results); err != nil {
		return err
	}
	for i := range results {
		if results[i].Err != nil {
			return results[i].Err
		}
		if err := writeSample(w, p.transform.ETL, &results[i].Sample); err != nil {
			return err
		}
	}
	return nil
}

func writeSample(w *tar.Writer, name string, s *etl.Sample) error {
	seen := make(map[string]bool, len(s.Fields))
	for i := range s.Fields {
		extension, data := s.Fields[i].File()
		if seen[extension] {
			return &etl.UserError{ETL: name, Key: s.Key, Summary: "two fields make the same file " + s.Key + "." + extension}
		}
		seen[extension] = true
		header := &tar.Header{Name: s.Key + "." + extension, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}
		if err := w.WriteHeader(header); err != nil {
			return &etl.UserError{ETL: name, Key: s.Key, Summary: "field " + extension + " can't be written to a tar: " + err.Error()}
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}
