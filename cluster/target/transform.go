package target

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/zeebo/xxh3"
	"golang.org/x/sync/semaphore"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl"
)

// Bounds of GET ?etl=. An answer is complete before its first byte is sent, so that a function that fails at the last
// sample is still an error with a status of its own; that takes memory.
const (
	maxTransformed = 256 << 20 // bytes of an object that is transformed whole, and of any answer
	maxChain       = 8         // functions in ?etl=a,b,...
	transformQueue = 30 * time.Second
	// transformTimeout bounds one request, whose client may be long gone.
	transformTimeout = 10 * time.Minute
	// transformMemory bounds what all such requests of a node hold together.
	transformMemory = 1 << 30
	batchSamples    = 256
	batchBytes      = 16 << 20
)

var transforms = semaphore.NewWeighted(transformMemory)

// transform answers GET ?etl=a,b: each function is applied to what the one before it gave. Object functions answer with
// bytes. Sample functions answer with a tar: of all samples of an archive, of the one that holds the member asked for,
// or of an object that is no archive as a sample with one field.
func (e *ETLs) transform(r *Request, s *Section, names []string) error {
	info := s.Object.Info()
	about := api.Address(info.Bucket, info.Name)
	if len(names) > maxChain {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%d transformations in a row, at most %d", len(names), maxChain)
	}
	level := ""
	for _, name := range names {
		runtime, err := e.Runtime(name)
		if err != nil {
			return err
		}
		if this := runtime.Definition().Level; level == "" {
			level = this
		} else if level != this {
			return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "etl %q works on level %q, %q on level %q; a chain needs one level", names[0], level, name, this)
		}
	}
	release, err := reserveMemory(r.Context(), min(s.Size, maxTransformed)+maxTransformed/8)
	if err != nil {
		return err
	}
	defer release()
	ctx, cancel := context.WithTimeout(r.Context(), transformTimeout)
	defer cancel()
	var answer []byte
	kind := "application/x-tar"
	if level == etl.LevelObject {
		kind = "application/octet-stream"
		answer, err = e.transformObject(ctx, s, about, names)
	} else {
		answer, err = e.transformSamples(ctx, s, about, names)
	}
	if err != nil {
		return etlError(about, err)
	}
	h := &r.Response.Header
	for _, of := range []string{"ETag", api.HeaderChecksum, api.HeaderArchive, api.HeaderMembers, api.HeaderSamples, api.HeaderMaxSample} {
		h.Del(of) // they are the object's, not the answer's
	}
	sum := xxh3.Hash(answer)
	h.Set(api.HeaderBodyChecksum, api.Checksums{XXH3: &sum}.String())
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	r.SetContentType(kind)
	r.Response.SetBodyRaw(answer)
	return r.SetWriteDeadline(time.Now().Add(downloadPause))
}

// reserveMemory waits for its turn to hold so much.
func reserveMemory(ctx context.Context, n int64) (release func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, transformQueue)
	defer cancel()
	if err := transforms.Acquire(ctx, n); err != nil {
		return nil, api.Errorf(http.StatusTooManyRequests, api.CodeBusy, "too many transformations under way on this target; try again later")
	}
	return func() { transforms.Release(n) }, nil
}

func (e *ETLs) transformObject(ctx context.Context, s *Section, about string, names []string) ([]byte, error) {
	if s.Size > maxTransformed {
		return nil, tooLargeToTransform(about, s.Size)
	}
	data, err := s.ReadAll()
	if err != nil {
		return nil, err
	}
	if s.Member != "" {
		about += "?member=" + s.Member
	}
	for _, name := range names {
		var out []byte
		err := e.with(name, func(runtime etl.Runtime) error {
			answer, err := runtime.TransformObject(ctx, nil, etl.Object{Key: about, Size: int64(len(data)), Body: bytes.NewReader(data)})
			if err != nil {
				return err
			}
			defer answer.Body.Close()
			out, err = io.ReadAll(io.LimitReader(answer.Body, maxTransformed+1))
			return err
		})
		if err != nil {
			return nil, err
		}
		data = out
	}
	if int64(len(data)) > maxTransformed {
		return nil, tooLargeToTransform("the result for "+about, int64(len(data)))
	}
	return data, nil
}

func tooLargeToTransform(what string, size int64) error {
	return api.Errorf(http.StatusRequestEntityTooLarge, api.CodeBadRequest,
		"%s has %d bytes, more than the %d that a transformation takes or gives in one answer; stream its samples instead", what, size, maxTransformed)
}

// with calls f with the runtime of a transformation, once more where it was replaced meanwhile.
func (e *ETLs) with(name string, f func(etl.Runtime) error) error {
	for attempt := 0; ; attempt++ {
		runtime, err := e.Runtime(name)
		if err != nil {
			return err
		}
		if err = f(runtime); !errors.Is(err, etl.ErrClosed) || attempt > 0 {
			return err
		}
	}
}

// transformSamples makes the tar of a section's transformed samples.
func (e *ETLs) transformSamples(ctx context.Context, s *Section, about string, names []string) ([]byte, error) {
	out := &sampleTar{about: about}
	out.writer = tar.NewWriter(&out.data)
	apply := func(batch []etl.Sample) error {
		results := make([]etl.Result, len(batch))
		for _, name := range names {
			err := e.with(name, func(runtime etl.Runtime) error { return runtime.Transform(ctx, nil, batch, results) })
			if err != nil {
				return err
			}
			for i := range results {
				if results[i].Err != nil {
					return results[i].Err
				}
				batch[i] = results[i].Sample
			}
		}
		for i := range batch {
			if err := out.add(names[len(names)-1], &batch[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if err := eachBatch(s, about, apply); err != nil {
		return nil, err
	}
	if err := out.writer.Close(); err != nil {
		return nil, err
	}
	return out.data.Bytes(), nil
}

// eachBatch reads the samples that a request is about, verified, and gives them to f a batch at a time. f owns them.
func eachBatch(s *Section, about string, f func([]etl.Sample) error) error {
	index, err := s.Object.Index()
	if err != nil {
		return err
	}
	if index == nil {
		if s.Size > maxTransformed {
			return tooLargeToTransform(about, s.Size)
		}
		data, err := s.ReadAll()
		if err != nil {
			return err
		}
		key, field := splitName(s.Object.Info().Name)
		return f([]etl.Sample{{Key: key, Fields: []etl.Field{{Name: field, Value: etl.BytesValue(data)}}}})
	}
	first, end := 0, index.NumSamples()
	if s.Member != "" {
		if first = sampleOf(index, s.Member); first < 0 {
			return api.Errorf(http.StatusNotFound, api.CodeNotFound, "member %q of %s belongs to no sample: its name has no extension", s.Member, about)
		}
		end = first + 1
	}
	var batch []etl.Sample
	var size int64
	for i := first; i < end; i++ {
		size += index.SampleSize(i)
		if index.SampleSize(i) > maxTransformed {
			return tooLargeToTransform("sample "+index.Key(i)+" of "+about, index.SampleSize(i))
		}
		sample, err := readSample(s.Object, index, i)
		if err != nil {
			return err
		}
		if batch = append(batch, sample); len(batch) < batchSamples && size < batchBytes && i < end-1 {
			continue
		}
		if err := f(batch); err != nil {
			return err
		}
		batch, size = batch[:0], 0
	}
	return nil
}

// readSample reads one sample of an archive.
func readSample(object *store.Object, index *archive.Index, i int) (etl.Sample, error) {
	sample := etl.Sample{Key: index.Key(i)}
	first, count := index.Sample(i)
	data := make([]byte, index.SampleSize(i))
	for m := first; m < first+count; m++ {
		member := index.Member(m)
		field := data[:member.Size:member.Size]
		data = data[member.Size:]
		if err := readFull(object, field, member.Offset); err != nil {
			return sample, err
		}
		sample.Fields = append(sample.Fields, etl.Field{Name: index.Field(m), Value: etl.BytesValue(field)})
	}
	return sample, nil
}

// sampleOf finds the sample that a member belongs to, -1 for none.
func sampleOf(index *archive.Index, name string) int {
	for i := range index.NumSamples() {
		first, count := index.Sample(i)
		for m := first; m < first+count; m++ {
			if index.Member(m).Name == name {
				return i
			}
		}
	}
	return -1
}

// splitName makes key and field of an object's name, as tar members are grouped.
func splitName(name string) (key, field string) {
	base := path.Base(name)
	stem, extension, _ := strings.Cut(base, ".")
	if extension == "" {
		extension = "bin"
	}
	if stem == "" {
		stem = "_"
	}
	return strings.TrimSuffix(name, base) + stem, extension
}

// sampleTar gathers transformed samples as a tar. The same samples make the same bytes.
type sampleTar struct {
	about  string
	data   bytes.Buffer
	writer *tar.Writer
}

func (t *sampleTar) add(name string, s *etl.Sample) error {
	seen := make(map[string]bool, len(s.Fields))
	for i := range s.Fields {
		extension, data := s.Fields[i].File()
		if seen[extension] {
			return &etl.UserError{ETL: name, Key: s.Key, Summary: "two fields make the same file " + s.Key + "." + extension}
		}
		seen[extension] = true
		if int64(t.data.Len())+int64(len(data)) > maxTransformed {
			return tooLargeToTransform("the result for "+t.about, int64(t.data.Len())+int64(len(data)))
		}
		header := &tar.Header{Name: s.Key + "." + extension, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}
		if err := t.writer.WriteHeader(header); err != nil {
			return &etl.UserError{ETL: name, Key: s.Key, Summary: "field " + extension + " can't be written to a tar: " + err.Error()}
		}
		if _, err := t.writer.Write(data); err != nil {
			return err
		}
	}
	return nil
}
