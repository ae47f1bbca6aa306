// Package etls keeps the deployed transformations of a cluster: their definitions, as JSON in etcd.
// Gateways write them, targets read and watch them. It runs nothing; package etl does, on the targets.
package etls

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/etl"
)

// maxEntry is what etcd takes in one request, with some room.
const maxEntry = 1400 << 10

// Definitions is the folder of definitions. Errors for a user are *api.Error.
type Definitions struct{ kv *membership.KV }

// Of is the folder of a cluster.
func Of(m *membership.Membership) Definitions { return Definitions{kv: m.KV("etls")} }

// Normalize fills in defaults and refuses a definition that no target could run. It does not look at the source;
// the targets do, which try it.
func Normalize(e api.ETL) (api.ETL, error) {
	if e.TimeoutS != 0 && (e.TimeoutS < 0.001 || e.TimeoutS > etl.MaxTimeout.Seconds() || math.IsNaN(e.TimeoutS)) {
		return e, api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "timeout_s %g: use 0.001 to %g", e.TimeoutS, etl.MaxTimeout.Seconds())
	}
	def := Definition(e).WithDefaults()
	if err := def.Validate(); err != nil {
		code := api.CodeBadRequest
		var fault *etl.DefinitionError
		if errors.As(err, &fault) && fault.Field == "name" {
			code = api.CodeBadName
		}
		return e, api.Errorf(http.StatusBadRequest, code, "%v", err)
	}
	e.Kind, e.Entry, e.Level, e.TimeoutS = def.Kind, def.Entry, def.Level, def.Timeout.Seconds()
	e.Transport, e.Network = def.Transport, def.Network
	e.Memory, e.MaxOutput = def.Limits.Memory, def.Limits.Output
	return e, nil
}

// Definition is what package etl runs.
func Definition(e api.ETL) etl.Definition {
	return etl.Definition{
		Name: e.Name, Kind: e.Kind, Level: e.Level, Version: e.Version,
		Source: e.Source, Entry: e.Entry, Pickle: e.Pickle, Requirements: e.Requirements, Python: e.Python,
		Image: e.Image, Command: e.Command, Env: e.Env, Port: e.Port, URL: e.URL, Transport: e.Transport, Fields: e.Fields,
		Args: e.Args, Workers: e.Workers, Timeout: time.Duration(e.TimeoutS * float64(time.Second)),
		Limits:    etl.Limits{Memory: e.Memory, CPUs: e.CPUs, Output: e.MaxOutput},
		Isolation: e.Isolation, Network: e.Network,
	}
}

// Put stores a definition, new or in place of the one of that name. Its version is the revision at which the
// cluster took it: it rises with each PUT and never comes again, not even after a DELETE.
func (d Definitions) Put(ctx context.Context, e api.ETL) (api.ETL, error) {
	e.Version, e.Created = 0, time.Now().UTC()
	var document bytes.Buffer
	encoder := json.NewEncoder(&document)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(e); err != nil {
		return e, fmt.Errorf("etl %s: %w", e.Name, err)
	}
	if document.Len() > maxEntry {
		return e, tooLarge(e.Name, document.Len())
	}
	version, err := d.kv.Put(ctx, e.Name, document.Bytes())
	if errors.Is(err, rpctypes.ErrRequestTooLarge) {
		return e, tooLarge(e.Name, document.Len())
	}
	e.Version = version
	return e, err
}

func tooLarge(name string, size int) error {
	return api.Errorf(http.StatusBadRequest, api.CodeBadRequest,
		"etl %s takes %d bytes as JSON, more than %d; move data out of its source", name, size, maxEntry)
}

// Get finds a definition as of now; CodeNoETL if there is none.
func (d Definitions) Get(ctx context.Context, name string) (api.ETL, error) {
	if !etl.ValidName(name) {
		return api.ETL{}, Missing(name)
	}
	entry, err := d.kv.Get(ctx, name)
	if errors.Is(err, membership.ErrNoEntry) {
		return api.ETL{}, Missing(name)
	}
	if err != nil {
		return api.ETL{}, err
	}
	return parse(entry)
}

// Delete removes a definition; CodeNoETL if there is none.
func (d Definitions) Delete(ctx context.Context, name string) error {
	if !etl.ValidName(name) {
		return Missing(name)
	}
	err := d.kv.Delete(ctx, name)
	if errors.Is(err, membership.ErrNoEntry) {
		return Missing(name)
	}
	return err
}

// List reads all definitions as of now, sorted by name.
func (d Definitions) List(ctx context.Context) ([]api.ETL, error) {
	entries, err := d.kv.List(ctx)
	if err != nil {
		return nil, err
	}
	list := make([]api.ETL, len(entries))
	for i, entry := range entries {
		if list[i], err = parse(entry); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// Watch calls changed with all definitions at once, and again after each change, until the context ends. One
// that does not parse is left out: it can only come from another release.
func (d Definitions) Watch(ctx context.Context, changed func([]api.ETL)) error {
	return d.kv.Watch(ctx, func(entries []membership.Entry) {
		list := make([]api.ETL, 0, len(entries))
		for _, entry := range entries {
			if e, err := parse(entry); err == nil {
				list = append(list, e)
			}
		}
		changed(list)
	})
}

func parse(entry membership.Entry) (api.ETL, error) {
	var e api.ETL
	if err := json.Unmarshal(entry.Value, &e); err != nil {
		return e, fmt.Errorf("etl %s: its entry does not parse: %w", entry.Name, err)
	}
	e.Version = entry.Revision
	return e, nil
}

// Missing is the error for a name that no transformation has.
func Missing(name string) error {
	return api.Errorf(http.StatusNotFound, api.CodeNoETL, "there is no etl %.80q; `shardstream etl ls` shows what is deployed", name)
}
