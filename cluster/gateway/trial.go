package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/etls"
	"github.com/shardstream/shardstream/core/store"
)

// trialTimeout bounds a trial, environments that are built for it included.
const trialTimeout = 20 * time.Minute

// postTrial has the target that holds an object try a transformation on it.
func (g *Gateway) postTrial(w http.ResponseWriter, r *http.Request) error {
	name := r.PathValue("name")
	var trial api.ETLTrial
	if err := ReadKnownJSON(w, r, maxDocument, &trial); err != nil {
		return err
	}
	if err := g.checkTrial(r, name, &trial); err != nil {
		return err
	}
	bucket, key, err := api.ParseAddress(trial.Address)
	if err != nil {
		return api.Errorf(http.StatusBadRequest, api.CodeBadRequest, "%v", err)
	}
	if err := errors.Join(store.CheckBucket(bucket), store.CheckName(key)); err != nil {
		return err
	}
	b, err := g.bucket(r.Context(), bucket)
	if err != nil {
		return err
	}
	if _, err := g.Primary(&b.Bucket, key); err != nil {
		return err
	}
	document, err := json.Marshal(trial)
	if err != nil {
		return err
	}
	var result api.ETLResult
	var absent error
	for _, node := range g.holders(&b.Bucket, key) {
		path := "/v1/internal/etls/" + url.PathEscape(name) + "/test"
		err := g.ask(r.Context(), trialTimeout, node, http.MethodPost, path, nil, bytes.NewReader(document), &result)
		var answer *api.Error
		switch {
		case err == nil:
			return WriteJSON(w, http.StatusOK, result)
		case !errors.As(err, &answer) || answer.Code != api.CodeNotFound:
			return err
		case absent == nil:
			absent = err
		}
	}
	return absent
}

// checkTrial makes sure of what is to be tried.
func (g *Gateway) checkTrial(r *http.Request, name string, trial *api.ETLTrial) error {
	if trial.Definition == nil {
		_, err := g.ETL(r.Context(), name)
		return err
	}
	trial.Definition.Name, trial.Definition.Version = name, 0
	definition, err := etls.Normalize(*trial.Definition)
	trial.Definition = &definition
	return err
}
