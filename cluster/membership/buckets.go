package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/shardstream/shardstream/cluster/api"
)

// ErrBucketExists is returned by CreateBucket.
var ErrBucketExists = errors.New("bucket exists already")

// ErrNoBucket is returned for a bucket that does not exist.
var ErrNoBucket = errors.New("no such bucket")

// CreateBucket makes a bucket and waits until this node sees it.
func (m *Membership) CreateBucket(ctx context.Context, b api.Bucket) error {
	revision, err := m.KV("buckets").PutIf(ctx, b.Name, []byte(mustJSON(Bucket{Bucket: b})), 0)
	if errors.Is(err, ErrConflict) {
		return fmt.Errorf("bucket %s: %w", b.Name, ErrBucketExists)
	}
	if err != nil {
		return err
	}
	_, err = m.Wait(ctx, revision)
	return err
}

// FindBucket finds a bucket that exists now: one that the view lacks is looked up in etcd, as it may
// have been made through another gateway a moment ago. ErrNoBucket if there is none.
func (m *Membership) FindBucket(ctx context.Context, name string) (Bucket, error) {
	if b, ok := m.View().Bucket(name); ok && !b.Deleting {
		return b, nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := m.client.Get(ctx, root+"buckets/"+name)
	if err != nil {
		return Bucket{}, unavailable(err)
	}
	var b Bucket
	if len(answer.Kvs) > 0 {
		if err := json.Unmarshal(answer.Kvs[0].Value, &b); err != nil {
			return Bucket{}, fmt.Errorf("bucket %s: its entry does not parse: %w", name, err)
		}
		b.Identity = answer.Kvs[0].CreateRevision
	}
	if b.Name == "" || b.Deleting {
		return Bucket{}, fmt.Errorf("bucket %s: %w", name, ErrNoBucket)
	}
	return b, nil
}

// SetDeleting marks a bucket as being deleted, or takes the mark off, and returns the revision from
// which on every view shows it. A bucket that is marked already, by a gateway that died meanwhile, is
// as good as marked now.
func (m *Membership) SetDeleting(ctx context.Context, name string, deleting bool) (int64, error) {
	kv := m.KV("buckets")
	for range mapAttempts {
		entry, err := kv.Get(ctx, name)
		if errors.Is(err, ErrNoEntry) {
			return 0, fmt.Errorf("bucket %s: %w", name, ErrNoBucket)
		}
		if err != nil {
			return 0, err
		}
		var b Bucket
		if err := json.Unmarshal(entry.Value, &b); err != nil {
			return 0, fmt.Errorf("bucket %s: its entry does not parse: %w", name, err)
		}
		b.Deleting = deleting
		revision, err := kv.PutIf(ctx, name, []byte(mustJSON(b)), entry.Revision)
		if !errors.Is(err, ErrConflict) {
			return revision, err
		}
	}
	return 0, fmt.Errorf("bucket %s: %w", name, ErrConflict)
}

// RemoveBucket removes a bucket's entry and returns the revision from which on no view shows it.
func (m *Membership) RemoveBucket(ctx context.Context, name string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := m.client.Delete(ctx, root+"buckets/"+name)
	if err != nil {
		return 0, unavailable(err)
	}
	if answer.Deleted == 0 {
		return 0, fmt.Errorf("bucket %s: %w", name, ErrNoBucket)
	}
	return answer.Header.Revision, nil
}
