package servers

import (
	"context"
	"errors"
	"path"
	"time"

	"github.com/colinmarc/hdfs/v2"
)

// hdfsOrigin is a folder of HDFS.
type hdfsOrigin struct {
	addr, folder string
}

func newHDFSOrigin(s *Server, folder string) (*hdfsOrigin, error) {
	return &hdfsOrigin{addr: s.Addr, folder: "/" + folder}, nil
}

func (o *hdfsOrigin) URL() string { return "hdfs://" + o.addr + o.folder }

// with connects for one piece of work: a client keeps one connection, which a server that was stalled has cut.
func (o *hdfsOrigin) with(work func(c *hdfs.Client) error) error {
	client, err := hdfs.NewClient(hdfs.ClientOptions{Addresses: []string{o.addr}, User: "test"})
	if err != nil {
		return err
	}
	return errors.Join(work(client), client.Close())
}

func (o *hdfsOrigin) Make(context.Context) error {
	return o.with(func(c *hdfs.Client) error { return c.MkdirAll(o.folder, 0o755) })
}

func (o *hdfsOrigin) Remove(context.Context) error {
	return o.with(func(c *hdfs.Client) error { return c.RemoveAll(o.folder) })
}

func (o *hdfsOrigin) Put(ctx context.Context, name string, data []byte) error {
	return o.with(func(c *hdfs.Client) error {
		at := path.Join(o.folder, name)
		if err := c.MkdirAll(path.Dir(at), 0o755); err != nil {
			return err
		}
		// Written beside it and renamed: nobody finds a file half written.
		if err := writeFile(ctx, c, at+".new", data); err != nil {
			return err
		}
		return c.Rename(at+".new", at)
	})
}

// writeFile writes a new file. Its end may have to wait for the data node.
func writeFile(ctx context.Context, c *hdfs.Client, at string, data []byte) error {
	w, err := c.Create(at)
	if err != nil {
		return err
	}
	if len(data) > 0 { // to write nothing begins a block that never has any
		if _, err := w.Write(data); err != nil {
			return errors.Join(err, w.Close())
		}
	}
	for {
		err := w.Close()
		if !errors.Is(err, hdfs.ErrReplicating) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (o *hdfsOrigin) Get(_ context.Context, name string) (content []byte, err error) {
	err = o.with(func(c *hdfs.Client) error {
		content, err = c.ReadFile(path.Join(o.folder, name))
		return err
	})
	return content, err
}

func (o *hdfsOrigin) Delete(_ context.Context, name string) error {
	return o.with(func(c *hdfs.Client) error { return c.Remove(path.Join(o.folder, name)) })
}
