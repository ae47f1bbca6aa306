package gateway

import (
	"bytes"
	"encoding/json"
	"maps"
	"mime"
	"net/http"
	"strings"

	"github.com/shardstream/shardstream/cluster/api"
)

// readChange reads what a PATCH of a bucket says, and gives what that comes to for the bucket as it is. With
// api.MergePatch a backend's properties that are left out stay as they are at the commit, whoever changes others at the
// same time; otherwise the backend is given with all of them.
func readChange(w http.ResponseWriter, r *http.Request) (func(*api.Bucket) (api.BucketChange, error), error) {
	kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")) // what can't be told is plain JSON, as ever
	if kind != api.MergePatch {
		var change api.BucketChange
		err := ReadKnownJSON(w, r, maxDocument, &change)
		return func(*api.Bucket) (api.BucketChange, error) { return change, nil }, err
	}
	var patch struct {
		api.BucketChange
		Backend map[string]json.RawMessage `json:"backend"` // in place of the change's own
	}
	if err := ReadKnownJSON(w, r, maxDocument, &patch); err != nil {
		return nil, err
	}
	return func(b *api.Bucket) (api.BucketChange, error) {
		change := patch.BucketChange
		if patch.Backend == nil {
			return change, nil
		}
		if b.Backend == nil {
			return change, noBackend(b)
		}
		merged, err := mergeBackend(b.Backend, patch.Backend)
		change.Backend = merged
		return change, err
	}, nil
}

// mergeBackend changes a backend's properties as RFC 7396 has it: null is the default.
func mergeBackend(b *api.Backend, patch map[string]json.RawMessage) (*api.Backend, error) {
	document, err := json.Marshal(b) //nolint:gosec // of a secret it has the name
	if err != nil {
		return nil, err
	}
	members := map[string]json.RawMessage{}
	if err := json.Unmarshal(document, &members); err != nil {
		return nil, err
	}
	maps.DeleteFunc(members, func(had string, _ json.RawMessage) bool { // names are told apart as JSON is read: by their letters alone
		for name := range patch {
			if strings.EqualFold(had, name) {
				return true
			}
		}
		return false
	})
	maps.Copy(members, patch)
	if document, err = json.Marshal(members); err != nil {
		return nil, err
	}
	merged := new(api.Backend) // null leaves what is here: nothing
	decoder := json.NewDecoder(bytes.NewReader(document))
	decoder.DisallowUnknownFields()
	return merged, unexpected(decoder.Decode(merged))
}
