package api

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"time"
)

// trialTimeout bounds a trial: environments may have to be built for it.
const trialTimeout = 25 * time.Minute

// ETLTrial asks for one object or sample to be tried: POST /v1/etls/{name}/test.
type ETLTrial struct {
	Address    string          `json:"address"`              // ss://bucket/key
	Member     string          `json:"member,omitempty"`     // of an archive; without it a sample function gets the first sample
	Args       json.RawMessage `json:"args,omitempty"`       // a JSON object
	Definition *ETL            `json:"definition,omitempty"` // tried in place of what is deployed, and not deployed
	Data       bool            `json:"data,omitempty"`       // answer with the bytes too: of an object, or a tar of a sample
}

// ETLResult is what a trial came to.
type ETLResult struct {
	ETL         string     `json:"etl"`
	Version     int64      `json:"version,omitempty"` // 0: it is not deployed
	Level       string     `json:"level"`
	Target      string     `json:"target"`         // that has the object
	Key         string     `json:"key"`            // of the sample that was taken, or the object's name
	PrepareS    float64    `json:"prepare_s"`      // until it could begin
	TookS       float64    `json:"took_s"`         // from then on
	Fields      []ETLField `json:"fields"`         // of a sample
	Size        int64      `json:"size"`           // bytes that came out
	ContentType string     `json:"content_type"`   // of an object
	Data        []byte     `json:"data,omitempty"` // base64
	Error       *Error     `json:"error,omitempty"`
	Log         string     `json:"log"` // what user code printed meanwhile
}

// ETLField is a field of a transformed sample.
type ETLField struct {
	Name  string  `json:"name"`
	DType string  `json:"dtype"` // bytes, text, or the type of a number or of an array's elements
	Shape []int64 `json:"shape,omitempty"`
	Size  int64   `json:"size"`           // bytes
	Text  string  `json:"text,omitempty"` // the beginning of a text, or a number
}

// TestETL tries a transformation on one object or sample. That it failed is in the result; an error says that it could not
// be tried.
func (c *Client) TestETL(ctx context.Context, name string, trial ETLTrial) (ETLResult, error) {
	var result ETLResult
	err := c.callFor(ctx, trialTimeout, http.MethodPost, "/v1/etls/"+url.PathEscape(name)+"/test", nil, trial, &result)
	return result, err
}
