package copies

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

// Paths of slices of erasure-coded objects. They are written, read and dropped by version and number, and are nobody's
// to answer for: what an object is follows from the copies of its description.
const (
	PathSliceHave   = "/v1/internal/slices/have"
	PathSliceCommit = "/v1/internal/slices/commit"
	PathSliceLook   = "/v1/internal/slices/look"
	PathSlice       = "/v1/internal/slices/objects/" // bucket and key follow
)

// ObjectName names an object.
type ObjectName struct{ Bucket, Name string }

// ObjectVersion names one version of an object of a bucket.
type ObjectVersion struct {
	Name    string `json:"name"`
	Version uint64 `json:"version"`
}

// SliceQuestion asks which slices of some versions a target has.
type SliceQuestion struct {
	Bucket  string          `json:"bucket"`
	Objects []ObjectVersion `json:"objects"`
}

// SliceAnswer has the numbers of the slices for each version, in their order.
type SliceAnswer struct {
	Slices [][]int `json:"slices"`
}

// SlicePath is that of the slices of an object.
func SlicePath(bucket, key string) string {
	return PathSlice + Path(bucket, key)[len(PathObject):]
}

// HaveSlices asks which slices of some versions of objects a target has.
func (c *Client) HaveSlices(ctx context.Context, node api.Node, bucket string, objects []ObjectVersion) ([][]int, error) {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	var answer SliceAnswer
	if err := c.document(ctx, node, PathSliceHave, SliceQuestion{Bucket: bucket, Objects: objects}, &answer); err != nil {
		return nil, err
	}
	if len(answer.Slices) != len(objects) {
		return nil, silent(node, io.ErrUnexpectedEOF)
	}
	return answer.Slices, nil
}

// StageSlice gives a target a slice, whose description has the number and what it is a slice of; its size may be
// unknown (-1). It is durable there when StageSlice returns, and is gone again unless it is committed. The context bounds it.
func (c *Client) StageSlice(ctx context.Context, node api.Node, stage string, slice store.Info, body io.Reader) error {
	request, err := c.request(ctx, http.MethodPut, node, SlicePath(slice.Bucket, slice.Name)+"?"+url.Values{"stage": {stage}}.Encode(), body)
	if err != nil {
		return err
	}
	request.ContentLength = slice.Size
	request.Header.Set(Header, Describe(slice))
	return c.answer(node, request, nil)
}

// CommitSlice makes a staged slice one of that version.
func (c *Client) CommitSlice(ctx context.Context, node api.Node, stage string, version uint64, created time.Time) error {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	return c.document(ctx, node, PathSliceCommit, Commit{Stage: stage, Version: version, Created: created}, nil)
}

// OpenSlice reads a slice from an offset on. What comes is verified there. The context bounds it all.
func (c *Client) OpenSlice(ctx context.Context, node api.Node, key store.SliceKey, offset int64) (io.ReadCloser, error) {
	query := url.Values{
		"version": {strconv.FormatUint(key.Version, 10)}, "slice": {strconv.Itoa(key.Slice)}, "from": {strconv.FormatInt(offset, 10)},
	}
	request, err := c.request(ctx, http.MethodGet, node, SlicePath(key.Bucket, key.Name)+"?"+query.Encode(), http.NoBody)
	if err != nil {
		return nil, err
	}
	response, err := c.do(node, request)
	if err != nil {
		return nil, err
	}
	return response.Body, nil
}

// LookAt has a target look whether its slices of some objects are still of use.
func (c *Client) LookAt(ctx context.Context, node api.Node, bucket string, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, shortTimeout)
	defer cancel()
	return c.document(ctx, node, PathSliceLook, HaveRequest{Bucket: bucket, Names: names}, nil)
}

// Replace is Put for another form of a version that the target has: whole copies where it has a stub, or the other way
// round.
func (c *Client) Replace(ctx context.Context, node api.Node, info store.Info, body io.Reader) error {
	return c.send(ctx, node, url.Values{"version": {strconv.FormatUint(info.Version, 10)}, "replace": {"true"}}, info, body, nil)
}
