package telemetry

import (
	"context"
	"crypto/rand"
	"encoding/hex"
)

// maxRequestID bounds the ids that clients choose.
const maxRequestID = 64

type requestIDKey struct{}

// RequestID takes the id that a client or another node sent, or makes a new one where there is none
// or it could not stand in a log line and a header.
func RequestID(sent string) string {
	if validRequestID(sent) {
		return sent
	}
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	return hex.EncodeToString(b[:])
}

func validRequestID(id string) bool {
	if id == "" || len(id) > maxRequestID {
		return false
	}
	for i := range len(id) {
		c := id[i]
		switch {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c == '-', c == '_', c == '.':
		default:
			return false
		}
	}
	return true
}

// WithRequestID returns a context that carries the id; loggers of NewLogger add it to every line
// logged with that context.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// RequestIDOf is the context's request id, "" where it has none. Send it on in
// api.HeaderRequestID with every request to another node.
func RequestIDOf(ctx context.Context) string {
	id, _ := ctx.Value(requestIDKey{}).(string)
	return id
}
