package store

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/shardstream/shardstream/core/archive"
)

var errTodo = errors.New("not built yet")

type Store struct{}
type Object struct{}

func Open(Options) (*Store, error)  { return nil, errTodo }
func (s *Store) Close() error       { return errTodo }
func (i Info) ETag() string         { return "" }
func CheckBucket(name string) error { return nil }
func CheckName(name string) error   { return nil }
func (s *Store) Put(ctx context.Context, bucket, name string, body io.Reader, o PutOptions) (Info, error) {
	return Info{}, errTodo
}
func (s *Store) Stat(bucket, name string) (Info, error) { return Info{}, errTodo }
func (s *Store) Delete(ctx context.Context, bucket, name string, c Condition) error {
	return errTodo
}
func (s *Store) Open(bucket, name string) (*Object, error) { return nil, errTodo }
func (s *Store) List(bucket, prefix, startAfter string, limit int) (infos []Info, more bool, err error) {
	return nil, false, errTodo
}
func (s *Store) Empty(bucket string) (bool, error)                   { return false, errTodo }
func (s *Store) DropBucket(ctx context.Context, bucket string) error { return errTodo }
func (s *Store) Locate(bucket, name string) (Info, []string, error) {
	return Info{}, nil, errTodo
}
func (s *Store) DropOlder(ctx context.Context, bucket, name string, version uint64) error {
	return errTodo
}
func (s *Store) Fsck(ctx context.Context) (Report, error) { return Report{}, errTodo }
func (s *Store) Disks() []DiskUsage                       { return nil }

func (o *Object) Info() Info                              { return Info{} }
func (o *Object) Index() (*archive.Index, error)          { return nil, nil }
func (o *Object) ReadAt(p []byte, off int64) (int, error) { return 0, errTodo }
func (o *Object) WriteRange(w io.Writer, off, n int64) (int64, error) {
	return 0, errTodo
}
func (o *Object) VerifyRange(off, n int64) error { return errTodo }
func (o *Object) File() *os.File                 { return nil }
func (o *Object) Close() error                   { return nil }
