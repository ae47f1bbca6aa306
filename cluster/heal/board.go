package heal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/shardstream/shardstream/cluster/membership"
)

// Names in etcd: a folder of reports, by target, and one entry of what people want.
const (
	reportFolder  = "heal"
	controlFolder = "heal-control"
	controlName   = "control"
)

const controlAttempts = 16

// EtcdBoard is the board of a target, in etcd.
type EtcdBoard struct {
	id      string
	reports *membership.KV
	control *membership.KV
	last    atomic.Pointer[Control]
}

// NewBoard is the board of a target.
func NewBoard(m *membership.Membership, id string) *EtcdBoard {
	b := &EtcdBoard{id: id, reports: m.KV(reportFolder), control: m.KV(controlFolder)}
	b.last.Store(&Control{})
	return b
}

// Run follows what people want, until the context ends.
func (b *EtcdBoard) Run(ctx context.Context) error {
	return b.control.Watch(ctx, func(entries []membership.Entry) {
		c := controlOf(entries)
		b.last.Store(&c)
	})
}

// Control is what people want, as last seen.
func (b *EtcdBoard) Control() Control { return *b.last.Load() }

// Write writes the target's report.
func (b *EtcdBoard) Write(ctx context.Context, r Report) error {
	document, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("report of heal: %w", err)
	}
	_, err = b.reports.Put(ctx, b.id, document)
	return err
}

// Read reads the target's report, and what people want with it.
func (b *EtcdBoard) Read(ctx context.Context) (Report, bool, error) {
	entries, err := b.control.List(ctx)
	if err != nil {
		return Report{}, false, err
	}
	c := controlOf(entries)
	b.last.Store(&c)
	entry, err := b.reports.Get(ctx, b.id)
	var r Report
	if errors.Is(err, membership.ErrNoEntry) {
		return r, false, nil
	}
	if err != nil {
		return r, false, err
	}
	return r, json.Unmarshal(entry.Value, &r) == nil, nil // else it is of another release
}

func controlOf(entries []membership.Entry) Control {
	var c Control
	for _, e := range entries {
		if e.Name == controlName {
			_ = json.Unmarshal(e.Value, &c) // else it is of another release: nothing is asked for
		}
	}
	return c
}

// Change changes what people want, in one step.
func Change(ctx context.Context, m *membership.Membership, change func(*Control)) (Control, error) {
	kv := m.KV(controlFolder)
	for range controlAttempts {
		var c Control
		entry, err := kv.Get(ctx, controlName)
		switch {
		case err == nil:
			c = controlOf([]membership.Entry{entry})
		case !errors.Is(err, membership.ErrNoEntry):
			return c, err
		}
		change(&c)
		document, err := json.Marshal(c)
		if err != nil {
			return c, fmt.Errorf("control of heal: %w", err)
		}
		if _, err := kv.PutIf(ctx, controlName, document, entry.Revision); !errors.Is(err, membership.ErrConflict) {
			return c, err
		}
	}
	return Control{}, fmt.Errorf("control of heal: %w", membership.ErrConflict)
}
