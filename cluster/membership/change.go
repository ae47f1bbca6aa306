package membership

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/shardstream/shardstream/cluster/api"
)

// Errors of changes to the map.
var (
	// ErrNoNode is returned for a node that is no member.
	ErrNoNode = errors.New("no such node")
	// ErrNotDrained is returned for a target that is to be removed and may hold objects.
	ErrNotDrained = errors.New("not drained")
	// ErrRefused is returned for a change that would leave the cluster without a gateway, or without a place for objects.
	ErrRefused = errors.New("refused")
	// ErrMapChanged is returned where the map is no longer of the version that the caller went by.
	ErrMapChanged = errors.New("the map changed meanwhile")
	// ErrUnsettled is returned for a change that has to wait until all objects are where they belong.
	ErrUnsettled = errors.New("objects are still being moved to where they belong")
	// ErrRemoved ends the Run of a node that was taken out of the cluster.
	ErrRemoved = errors.New("the node was removed from the cluster")
)

// document is the map as etcd has it, with what decides how it may be changed.
type document struct {
	current  api.Map
	revision int64
	pristine bool // no bucket exists: no object is anywhere
}

// mapReads are the first reads of a transaction that documentOf makes a document of.
func mapReads() []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpGet(root + "map"),
		clientv3.OpGet(root+"buckets/", clientv3.WithPrefix(), clientv3.WithCountOnly()),
	}
}

func documentOf(answer *clientv3.TxnResponse) (document, error) {
	var d document
	if kvs := answer.Responses[0].GetResponseRange().Kvs; len(kvs) > 0 {
		d.revision = kvs[0].ModRevision
		if err := json.Unmarshal(kvs[0].Value, &d.current); err != nil {
			return d, fmt.Errorf("the cluster map does not parse, was it written by a newer release?: %w", err)
		}
	}
	d.pristine = answer.Responses[1].GetResponseRange().Count == 0
	return d, nil
}

// unchanged are the conditions under which a change that was made of the document may be written.
func (d *document) unchanged() []clientv3.Cmp {
	conditions := []clientv3.Cmp{clientv3.Compare(clientv3.ModRevision(root+"map"), "=", d.revision)}
	if d.pristine { // and still so at the commit
		conditions = append(conditions, clientv3.Compare(clientv3.ModRevision(root+"buckets/").WithPrefix(), "=", 0))
	}
	return conditions
}

// proposal is a change of the map.
type proposal struct {
	next   api.Map
	ifs    []clientv3.Cmp // conditions besides that of the map itself
	writes []clientv3.Op  // besides the map
	always bool           // write, though the map stays as it is
}

// change replaces the map by what edit makes of it, again while other nodes are quicker, and waits until this node sees
// it. Nothing is written where edit leaves the version as it is.
func (m *Membership) change(ctx context.Context, edit func(document) (proposal, error)) error {
	var revision int64
	err := m.race(ctx, func() (err error) {
		revision, err = m.tryChange(ctx, edit)
		return err
	})
	if err == nil && revision > 0 {
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		_, err = m.Wait(ctx, revision)
	}
	return err
}

// race repeats what lost against a change by another node.
func (m *Membership) race(ctx context.Context, try func() error) (err error) {
	for attempt := range mapAttempts {
		if err = try(); !errors.Is(err, errLostRace) {
			return err
		}
		pause(ctx, time.Duration(attempt)*time.Millisecond)
	}
	return &UnavailableError{Err: err}
}

func (m *Membership) tryChange(ctx context.Context, edit func(document) (proposal, error)) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	read, err := m.client.Txn(ctx).Then(mapReads()...).Commit()
	if err != nil {
		return 0, unavailable(err)
	}
	d, err := documentOf(read)
	if err != nil {
		return 0, err
	}
	p, err := edit(d)
	if err != nil || p.next.Version == d.current.Version && !p.always {
		return 0, err
	}
	writes := p.writes
	if p.next.Version != d.current.Version {
		writes = append(writes, clientv3.OpPut(root+"map", mustJSON(p.next)))
	}
	done, err := m.client.Txn(ctx).If(append(d.unchanged(), p.ifs...)...).Then(writes...).Commit()
	if err != nil {
		return 0, unavailable(err)
	}
	if !done.Succeeded {
		return 0, errLostRace
	}
	return done.Header.Revision, nil
}

// Drain has a target take nothing new, or end that: what it has is moved to the others.
func (m *Membership) Drain(ctx context.Context, id string, draining bool) error {
	return m.change(ctx, func(d document) (proposal, error) {
		next, err := drain(d.current, id, draining, d.pristine)
		return proposal{next: next}, err
	})
}

// Remove takes a node out of the cluster. A target has to be drained, unless it is forced out: then what nobody else has
// is lost. Its id can be taken again by a node with empty disks only.
func (m *Membership) Remove(ctx context.Context, id string, force bool) error {
	if err := m.dispensable(ctx, id); err != nil {
		return err
	}
	return m.change(ctx, func(d document) (proposal, error) {
		next, err := remove(d.current, id, force, d.pristine)
		return proposal{next: next, writes: []clientv3.Op{
			clientv3.OpDelete(root + "members/" + id),
			clientv3.OpDelete(root + "live/" + id),
			clientv3.OpDelete(root + "heal/" + id),
			clientv3.OpDelete(root + offers + "/" + id),
			clientv3.OpPut(root+"removed/"+id, mustJSON(removal{At: time.Now().UTC()})),
		}}, err
	})
}

// dispensable refuses the removal of a gateway without which etcd would have no majority, and the cluster no state: it
// ends before the others can take it out of etcd.
func (m *Membership) dispensable(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := m.client.MemberList(ctx)
	if err != nil {
		return unavailable(err)
	}
	voters, own := 0, false
	for _, member := range list.Members {
		if !member.IsLearner {
			voters++
			own = own || member.Name == id
		}
	}
	if own && voters < 3 {
		return fmt.Errorf("gateway %s is one of %d that hold the cluster's state: have three gateways first, "+
			"and wait until all three hold it: %w", id, voters, ErrRefused)
	}
	return nil
}

// removal remembers a node that was removed.
type removal struct {
	At time.Time `json:"at"`
}
