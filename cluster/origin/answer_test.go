package origin_test

import (
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/origin"
	"github.com/shardstream/shardstream/core/backend"
)

func TestAnswersNameBucketAndBackend(t *testing.T) {
	for _, c := range []struct {
		kind   backend.Kind
		status int
		code   string
	}{
		{backend.Failed, 502, api.CodeBackend},
		{backend.NotFound, 404, api.CodeNotFound},
		{backend.NoBucket, 502, api.CodeBackend},
		{backend.Denied, 502, api.CodeDenied},
		{backend.Changed, 409, api.CodeChanged},
		{backend.Range, 416, api.CodeRange},
		{backend.Corrupt, 502, api.CodeBackend},
		{backend.Busy, 503, api.CodeBackendBusy},
		{backend.Passing, 503, api.CodeBackendBusy},
		{backend.Unsupported, 502, api.CodeBackend},
		{backend.Forbidden, 502, api.CodeBackend},
		{backend.Loop, 508, api.CodeLoop},
	} {
		said := &backend.Error{Backend: "s3://photos", Op: "stat", Name: "a.tar", Kind: c.kind, Err: errors.New("as it happens")}
		var answer *api.Error
		require.ErrorAs(t, origin.Answer("pictures", fmt.Errorf("fetch: %w", said)), &answer, c.kind)
		assert.Equal(t, c.status, answer.Status, c.kind)
		assert.Equal(t, c.code, answer.Code, c.kind)
		for _, part := range []string{"pictures", "s3://photos/a.tar", "as it happens"} {
			assert.Contains(t, answer.Message, part)
		}
	}
	assert.NoError(t, origin.Answer("b", nil))
	assert.Equal(t, io.EOF, origin.Answer("b", io.EOF))
}
