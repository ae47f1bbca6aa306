package api

import (
	"net/http"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// A check of all data, or the end of a large bucket, takes longer than an answer about one object may:
// the limit of such a request is its own, and nothing below it may be shorter.
func TestLongWorkIsNotCutShort(t *testing.T) {
	client, err := NewClient(Options{})
	require.NoError(t, err)
	documents, ok := client.documents.Transport.(*http.Transport)
	require.True(t, ok)
	assert.Zero(t, documents.ResponseHeaderTimeout)
	data, ok := client.data.Transport.(*http.Transport)
	require.True(t, ok)
	assert.Equal(t, answerTimeout, data.ResponseHeaderTimeout)
}
