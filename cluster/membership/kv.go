package membership

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

const root = "/shardstream/"

// callTimeout bounds each call to etcd.
const callTimeout = 5 * time.Second

// ErrNoEntry is returned for a name that a KV does not hold.
var ErrNoEntry = errors.New("no such entry")

// ErrConflict is returned where an entry was not at the revision that the caller named.
var ErrConflict = errors.New("changed meanwhile")

// Entry is one value of a KV.
type Entry struct {
	Name     string
	Value    []byte
	Revision int64 // of its last change: rises over the whole cluster
}

// KV is a folder of small definitions in etcd (a few kilobytes each: limit 1 MiB). All methods are
// safe for concurrent use and bounded by a deadline.
type KV struct {
	client *clientv3.Client
	prefix string
}

// Get reads an entry as of now, not as of the last watch event. ErrNoEntry if there is none.
func (kv *KV) Get(ctx context.Context, name string) (Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := kv.client.Get(ctx, kv.prefix+name)
	if err != nil {
		return Entry{}, unavailable(err)
	}
	if len(answer.Kvs) == 0 {
		return Entry{}, fmt.Errorf("%s%s: %w", kv.prefix, name, ErrNoEntry)
	}
	return Entry{Name: name, Value: answer.Kvs[0].Value, Revision: answer.Kvs[0].ModRevision}, nil
}

// Put writes an entry, new or not, and returns its revision.
func (kv *KV) Put(ctx context.Context, name string, value []byte) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := kv.client.Put(ctx, kv.prefix+name, string(value))
	if err != nil {
		return 0, unavailable(err)
	}
	return answer.Header.Revision, nil
}

// PutIf writes an entry that is at the given revision (0: that does not exist); ErrConflict if it is not.
func (kv *KV) PutIf(ctx context.Context, name string, value []byte, revision int64) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := kv.prefix + name
	answer, err := kv.client.Txn(ctx).
		If(clientv3.Compare(clientv3.ModRevision(key), "=", revision)).
		Then(clientv3.OpPut(key, string(value))).Commit()
	if err != nil {
		return 0, unavailable(err)
	}
	if !answer.Succeeded {
		return 0, fmt.Errorf("%s: %w", key, ErrConflict)
	}
	return answer.Header.Revision, nil
}

// Delete removes an entry; ErrNoEntry if there was none.
func (kv *KV) Delete(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := kv.client.Delete(ctx, kv.prefix+name)
	if err != nil {
		return unavailable(err)
	}
	if answer.Deleted == 0 {
		return fmt.Errorf("%s%s: %w", kv.prefix, name, ErrNoEntry)
	}
	return nil
}

// List reads all entries as of now, sorted by name.
func (kv *KV) List(ctx context.Context) ([]Entry, error) {
	entries, _, err := kv.list(ctx)
	return entries, err
}

func (kv *KV) list(ctx context.Context) ([]Entry, int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	answer, err := kv.client.Get(ctx, kv.prefix, clientv3.WithPrefix(), clientv3.WithSort(clientv3.SortByKey, clientv3.SortAscend))
	if err != nil {
		return nil, 0, unavailable(err)
	}
	entries := make([]Entry, len(answer.Kvs))
	for i, e := range answer.Kvs {
		entries[i] = Entry{Name: strings.TrimPrefix(string(e.Key), kv.prefix), Value: e.Value, Revision: e.ModRevision}
	}
	return entries, answer.Header.Revision, nil
}

// Watch calls changed with all entries at once, and again after each change (changes that come close
// together may be told as one), until the context ends. It survives etcd being away for a while.
// Calls are made one after the other from Watch itself.
func (kv *KV) Watch(ctx context.Context, changed func([]Entry)) error {
	for {
		entries, revision, err := kv.list(ctx)
		if err == nil {
			changed(entries)
			kv.awaitChange(ctx, revision+1)
		} else {
			pause(ctx, retryPause)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // the end of the context is the end of the watch
		}
	}
}

// awaitChange returns after a change since the revision, or when it can't tell.
func (kv *KV) awaitChange(ctx context.Context, revision int64) {
	ctx, cancel := context.WithCancel(clientv3.WithRequireLeader(ctx))
	defer cancel()
	for answer := range kv.client.Watch(ctx, kv.prefix, clientv3.WithPrefix(), clientv3.WithRev(revision)) {
		if answer.Err() != nil || len(answer.Events) > 0 {
			return
		}
	}
	pause(ctx, retryPause)
}

// UnavailableError says that the control plane did not answer.
type UnavailableError struct{ Err error }

func (e *UnavailableError) Error() string {
	return fmt.Sprintf("the cluster's control plane (etcd, on gateways) does not answer: %v; is a majority of the gateways up?", e.Err)
}

func (e *UnavailableError) Unwrap() error { return e.Err }

// unavailable wraps all errors but those of etcd about the request itself.
func unavailable(err error) error {
	if errors.Is(err, rpctypes.ErrKeyNotFound) || errors.Is(err, rpctypes.ErrRequestTooLarge) {
		return err
	}
	return &UnavailableError{Err: err}
}

const retryPause = 200 * time.Millisecond

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
