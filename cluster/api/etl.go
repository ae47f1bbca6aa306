package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// Limits of work that takes its time; longer than the gateway's own.
const (
	deployTimeout  = 16 * time.Minute
	restartTimeout = 4 * time.Minute
)

// ETL levels.
const (
	LevelSample = "sample" // dict -> dict, one sample at a time
	LevelBatch  = "batch"  // list of dicts -> dict of columns
	LevelObject = "object" // bytes -> bytes
)

// ETL is a deployed transformation. What is left out gets a default, by kind; package etl documents the fields.
type ETL struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"`    // "function" by default, "container", "server", "command"
	Level   string    `json:"level"`   // of functions LevelSample by default, else LevelObject
	Version int64     `json:"version"` // rises with each PUT
	Created time.Time `json:"created"`

	Source       string   `json:"source,omitempty"` // Python source
	Entry        string   `json:"entry,omitempty"`  // function name, "transform" by default
	Pickle       []byte   `json:"pickle,omitempty"` // base64 of a cloudpickle, in place of source
	Requirements []string `json:"requirements,omitempty"`
	Python       string   `json:"python,omitempty"` // version, as in "3.11"

	Image     string            `json:"image,omitempty"`
	Command   []string          `json:"command,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Port      int               `json:"port,omitempty"`
	URL       string            `json:"url,omitempty"`
	Transport string            `json:"transport,omitempty"` // push, redirect, proxy, stdio
	Fields    []string          `json:"fields,omitempty"`

	Args      json.RawMessage `json:"args,omitempty"`       // defaults of the arguments that requests may give
	Workers   int             `json:"workers,omitempty"`    // per target; 0: one per CPU
	TimeoutS  float64         `json:"timeout_s,omitempty"`  // for one sample or object; default 30
	Memory    int64           `json:"memory,omitempty"`     // bytes of one worker or of a container; default 2 GiB
	CPUs      float64         `json:"cpus,omitempty"`       // of one worker or of a container; 0: no limit
	MaxOutput int64           `json:"max_output,omitempty"` // bytes of one answer; default 256 MiB
	Isolation string          `json:"isolation,omitempty"`  // the least that will do: strict, landlock, none
	Network   string          `json:"network,omitempty"`    // none by default, host, bridge

	// Status is how it goes on the targets. It is no part of the definition: a PUT leaves it out, or is answered as if.
	Status *ETLStatus `json:"status,omitempty"`
}

// ETLList is GET /v1/etls, sorted by name.
type ETLList struct {
	ETLs []ETL `json:"etls"`
}

// ETLs are the deployed transformations, sorted by name.
func (c *Client) ETLs(ctx context.Context) ([]ETL, error) {
	list, err := fetch[ETLList](ctx, c, "/v1/etls", nil)
	return list.ETLs, err
}

// ETL finds a transformation; CodeNoETL if there is none.
func (c *Client) ETL(ctx context.Context, name string) (ETL, error) {
	return fetch[ETL](ctx, c, etlPath(name), nil)
}

// PutETL deploys a transformation, new or in place of the one of that name, once all targets have made it ready, which
// may take minutes: ETLStatus tells meanwhile how far that is. When the context ends before, nothing was deployed.
func (c *Client) PutETL(ctx context.Context, e ETL) (ETL, error) {
	var out ETL
	err := c.callFor(ctx, deployTimeout, http.MethodPut, etlPath(e.Name), nil, e, &out)
	return out, err
}

// StoreETL deploys a transformation untried; its status tells whether it works.
func (c *Client) StoreETL(ctx context.Context, e ETL) (ETL, error) {
	var out ETL
	err := c.call(ctx, http.MethodPut, etlPath(e.Name), url.Values{"wait": {"false"}}, e, &out)
	return out, err
}

// ETLStatus is how a transformation is on the targets, also while it is tried for the first time; CodeNoETL if there is
// neither.
func (c *Client) ETLStatus(ctx context.Context, name string) (ETLStatus, error) {
	return fetch[ETLStatus](ctx, c, etlPath(name)+"/status", nil)
}

// RestartETL replaces a transformation's workers by new ones and returns once these are up.
func (c *Client) RestartETL(ctx context.Context, name string) (ETLStatus, error) {
	var out ETLStatus
	err := c.callFor(ctx, restartTimeout, http.MethodPost, etlPath(name)+"/restart", nil, nil, &out)
	return out, err
}

// DeleteETL removes a transformation.
func (c *Client) DeleteETL(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, etlPath(name), nil, nil, nil)
}

func etlPath(name string) string { return "/v1/etls/" + url.PathEscape(name) }
