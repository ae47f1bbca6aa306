package target

import (
	"archive/tar"
	"bytes"
	"context"
	"io"
	"net/http"
	"path"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
	"github.com/shardstream/shardstream/etl"
)

// Samples of an archive are transformed so many at a time, or so many bytes.
const (
	batchSamples = 256
	batchBytes   = 16 << 20
)

// runSamples starts on a section's samples: a tar that is made batch by batch while it is read.
func (x *inline) runSamples(ctx context.Context) (*etl.Output, error) {
	samples, err := x.samples()
	if err != nil {
		return nil, err
	}
	out := &sampleTar{about: x.name(), etl: x.chain.links[len(x.chain.links)-1].definition.Name}
	out.writer = tar.NewWriter(&out.data)
	out.more = func() ([]etl.Result, error) {
		batch, err := samples.next()
		if err != nil || len(batch) == 0 {
			return nil, err
		}
		defer x.stall.watch()()
		return x.chain.apply(ctx, batch)
	}
	return &etl.Output{Body: out, Size: -1, ContentType: contentTypeTar}, nil
}

const contentTypeTar = "application/x-tar"

// apply puts a batch through the chain. The first sample that fails ends it.
func (c *chain) apply(ctx context.Context, batch []etl.Sample) ([]etl.Result, error) {
	results := make([]etl.Result, len(batch))
	for i := range c.links {
		l := &c.links[i]
		if err := l.runtime.Transform(ctx, l.args, batch, results); err != nil {
			return nil, err
		}
		for j := range results {
			if results[j].Err != nil {
				return nil, results[j].Err
			}
			batch[j] = results[j].Sample
		}
	}
	return results, nil
}

// samples are those that a request is about, read and verified a batch at a time.
type samples struct {
	about  string
	object *store.Object
	index  *archive.Index // nil: the section is a sample with one field
	size   int64          // of the section
	at     int
	end    int
}

func (x *inline) samples() (*samples, error) {
	s := &samples{about: x.name(), object: x.section.Object, size: x.section.Size, end: 1}
	var err error
	if s.index, err = s.object.Index(); err != nil || s.index == nil {
		return s, err
	}
	s.end = s.index.NumSamples()
	if member := x.section.Member; member != "" {
		if s.at = sampleOf(s.index, member); s.at < 0 {
			return nil, api.Errorf(http.StatusNotFound, api.CodeNotFound, "%s belongs to no sample: its name has no extension", s.about)
		}
		s.end = s.at + 1
	}
	return s, nil
}

// next reads a batch, empty after the last one. The caller owns it.
func (s *samples) next() ([]etl.Sample, error) {
	var batch []etl.Sample
	for size := int64(0); s.at < s.end && len(batch) < batchSamples && size < batchBytes; s.at++ {
		sample, err := s.read()
		if err != nil {
			return nil, err
		}
		size += sample.Size()
		batch = append(batch, sample)
	}
	return batch, nil
}

func (s *samples) read() (etl.Sample, error) {
	if s.index == nil {
		if s.size > maxTransformed {
			return etl.Sample{}, tooLargeToTransform(s.about, s.size)
		}
		data := make([]byte, s.size)
		key, field := splitName(s.object.Info().Name)
		return etl.Sample{Key: key, Fields: []etl.Field{{Name: field, Value: etl.BytesValue(data)}}}, readFull(s.object, data, 0)
	}
	if size := s.index.SampleSize(s.at); size > maxTransformed {
		return etl.Sample{}, tooLargeToTransform("sample "+s.index.Key(s.at)+" of "+s.about, size)
	}
	return readSample(s.object, s.index, s.at)
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

// sampleTar is transformed samples as a tar, made as it is read: it holds one batch. The same samples make the same
// bytes.
type sampleTar struct {
	about  string
	etl    string                       // the transformation that made them
	more   func() ([]etl.Result, error) // none: the end
	data   bytes.Buffer
	writer *tar.Writer
	failed error
}

func (t *sampleTar) Read(p []byte) (int, error) {
	for t.data.Len() == 0 && t.failed == nil {
		t.failed = t.next()
	}
	if t.data.Len() == 0 {
		return 0, t.failed
	}
	return t.data.Read(p)
}

// next adds a batch, or the tar's end.
func (t *sampleTar) next() error {
	results, err := t.more()
	if err != nil {
		return err
	}
	for i := range results {
		if err := t.add(&results[i].Sample); err != nil {
			return err
		}
	}
	if len(results) > 0 {
		return nil
	}
	if err := t.writer.Close(); err != nil {
		return err
	}
	return io.EOF
}

func (t *sampleTar) add(s *etl.Sample) error {
	seen := make(map[string]bool, len(s.Fields))
	for i := range s.Fields {
		extension, data := s.Fields[i].File()
		if seen[extension] {
			return &etl.UserError{ETL: t.etl, Key: s.Key, Summary: "two fields make the same file " + s.Key + "." + extension}
		}
		seen[extension] = true
		if size := int64(t.data.Len()) + int64(len(data)); size > maxTransformed {
			return tooLargeToTransform("what a batch of "+t.about+" became", size)
		}
		header := &tar.Header{Name: s.Key + "." + extension, Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg}
		if err := t.writer.WriteHeader(header); err != nil {
			return &etl.UserError{ETL: t.etl, Key: s.Key, Summary: "field " + extension + " can't be written to a tar: " + err.Error()}
		}
		if _, err := t.writer.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// Close is for io.ReadCloser.
func (t *sampleTar) Close() error { return nil }
