package servers

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"

	"github.com/shardstream/shardstream/core/backend"
)

// Origin is a bucket, container or folder of a server, as its owner sees it.
type Origin interface {
	// URL is what a bucket of the cluster is given as its backend.
	URL() string
	// Make makes the bucket.
	Make(ctx context.Context) error
	// Remove removes the bucket with all that is in it.
	Remove(ctx context.Context) error
	// Put stores an object, over another or not.
	Put(ctx context.Context, name string, data []byte) error
	// Get reads an object; fs.ErrNotExist where there is none.
	Get(ctx context.Context, name string) ([]byte, error)
	Delete(ctx context.Context, name string) error
}

// Origin is the bucket of a name; it need not be there yet.
func (s *Server) Origin(name string) (Origin, error) {
	switch s.Kind {
	case backend.S3:
		return newS3Origin(s, name), nil
	case backend.GCS:
		return &gcsOrigin{base: "http://" + s.Addr, bucket: name}, nil
	case backend.Azure:
		return newAzureOrigin(s, name)
	case backend.HDFS:
		return newHDFSOrigin(s, name)
	case backend.HTTP:
		return &folderOrigin{url: s.URL(name), dir: filepath.Join(s.Dir, "data", name)}, nil
	case backend.Remote:
		return newRemoteOrigin(s, name)
	}
	return nil, fmt.Errorf("no origins of %s", s.Kind)
}

// URL is a bucket's, as the server itself is reached.
func (s *Server) URL(bucket string) string { return s.URLAt(s.Addr, bucket) }

// URLAt is a bucket's where something at another address relays to the server.
func (s *Server) URLAt(addr, bucket string) string {
	switch s.Kind {
	case backend.HDFS, backend.HTTP, backend.Remote:
		return s.Kind + "://" + addr + "/" + bucket
	}
	return s.Kind + "://" + bucket
}

// EndpointAt is what a bucket of the cluster needs as its backend's endpoint where the server is reached at addr; "" where
// the URL says it.
func (s *Server) EndpointAt(addr string) string {
	switch s.Kind {
	case backend.S3, backend.GCS:
		return "http://" + addr
	case backend.Azure:
		return "http://" + addr + "/" + AzureAccount
	}
	return ""
}

// Secret are the fields of the secret that a cluster needs; empty where the server asks for none.
func (s *Server) Secret() map[string]string {
	switch s.Kind {
	case backend.S3:
		return map[string]string{"access_key_id": S3AccessKey, "secret_access_key": S3SecretKey}
	case backend.GCS:
		return map[string]string{"anonymous": "true"} // an emulator asks for nothing
	case backend.Azure:
		return map[string]string{"account": AzureAccount, "key": AzureKey}
	}
	return nil
}

// folderOrigin is a folder that a web server serves: who fills it writes files.
type folderOrigin struct{ url, dir string }

func (o *folderOrigin) URL() string { return o.url }

func (o *folderOrigin) Make(context.Context) error { return os.MkdirAll(o.dir, 0o750) }

func (o *folderOrigin) Remove(context.Context) error { return os.RemoveAll(o.dir) }

func (o *folderOrigin) path(name string) string {
	return filepath.Join(o.dir, filepath.FromSlash(name))
}

func (o *folderOrigin) Put(_ context.Context, name string, data []byte) error {
	path := o.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (o *folderOrigin) Get(_ context.Context, name string) ([]byte, error) {
	return os.ReadFile(o.path(name))
}

func (o *folderOrigin) Delete(_ context.Context, name string) error { return os.Remove(o.path(name)) }

// escaped is a name as one segment of a URL's path.
func escaped(name string) string { return url.PathEscape(name) }
