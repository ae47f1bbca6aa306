package servers

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"

	"github.com/shardstream/shardstream/cluster/api"
)

// remoteOrigin is a bucket of another cluster.
type remoteOrigin struct {
	client       *api.Client
	addr, bucket string
}

func newRemoteOrigin(s *Server, bucket string) (*remoteOrigin, error) {
	client, err := api.NewClient(api.Options{Endpoint: "http://" + s.Addr})
	if err != nil {
		return nil, err
	}
	return &remoteOrigin{client: client, addr: s.Addr, bucket: bucket}, nil
}

func (o *remoteOrigin) URL() string { return "ss://" + o.addr + "/" + o.bucket }

func (o *remoteOrigin) Make(ctx context.Context) error {
	_, err := o.client.CreateBucket(ctx, o.bucket)
	return err
}

func (o *remoteOrigin) Remove(ctx context.Context) error {
	return o.client.DeleteBucket(ctx, o.bucket, true)
}

func (o *remoteOrigin) Put(ctx context.Context, name string, data []byte) error {
	_, err := o.client.PutObject(ctx, o.bucket, name, bytes.NewReader(data), int64(len(data)), api.PutOptions{})
	return err
}

func (o *remoteOrigin) Get(ctx context.Context, name string) ([]byte, error) {
	object, err := o.client.GetObject(ctx, o.bucket, name, api.GetOptions{})
	if answer := (*api.Error)(nil); errors.As(err, &answer) && answer.Status == http.StatusNotFound {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	if err != nil {
		return nil, err
	}
	defer object.Close()
	return io.ReadAll(object)
}

func (o *remoteOrigin) Delete(ctx context.Context, name string) error {
	return o.client.DeleteObject(ctx, o.bucket, name)
}
