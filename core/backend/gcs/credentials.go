package gcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
)

const scope = "https://www.googleapis.com/auth/devstorage.read_write"

// signer puts a token on each request. Where the token comes from is found out at the first one: the chain may have
// to ask the machine's metadata service.
type signer struct {
	next http.RoundTripper
	find func() (*auth.Credentials, error) // nil credentials: none are sent

	mu    sync.Mutex
	found bool
	creds *auth.Credentials
}

// credentialsError is what looking for a token ended with.
type credentialsError struct{ err error }

func (e *credentialsError) Error() string { return "no credentials: " + e.err.Error() }
func (e *credentialsError) Unwrap() error { return e.err }

func (s *signer) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := s.token(r.Context())
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, &credentialsError{err}
	}
	r = r.Clone(r.Context())
	if token != nil {
		r.Header.Set("Authorization", token.Type+" "+token.Value)
	}
	if r.URL.Query().Get("alt") == "media" {
		// Otherwise the service unpacks what is stored packed, and its checksums are of other bytes.
		r.Header.Set("Accept-Encoding", "gzip")
	}
	return s.next.RoundTrip(r)
}

func (s *signer) token(ctx context.Context) (*auth.Token, error) {
	s.mu.Lock()
	if !s.found {
		creds, err := s.find()
		if err != nil {
			s.mu.Unlock()
			return nil, err
		}
		s.creds, s.found = creds, true
	}
	creds := s.creds
	s.mu.Unlock()
	if creds == nil {
		return nil, nil //nolint:nilnil // nothing to send, and nothing wrong
	}
	token, err := creds.Token(ctx)
	if err != nil {
		return nil, err
	}
	if token.Type == "" {
		token.Type = "Bearer"
	}
	return token, nil
}

func (s *signer) CloseIdleConnections() {
	if c, ok := s.next.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

// finder says how credentials are found: in the secret, else by the chain, where the endpoint is Google's.
func finder(client *http.Client, secret map[string]string, google bool) func() (*auth.Credentials, error) {
	return func() (*auth.Credentials, error) {
		switch {
		case secret["anonymous"] == "true":
			return nil, nil //nolint:nilnil // see signer
		case secret["access_token"] != "":
			return auth.NewCredentials(&auth.CredentialsOptions{TokenProvider: static(secret["access_token"])}), nil
		case secret["credentials_json"] != "":
			return parse(client, []byte(secret["credentials_json"]))
		case !google:
			return nil, nil //nolint:nilnil // see signer
		}
		return credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{scope}})
	}
}

type static string

func (s static) Token(context.Context) (*auth.Token, error) {
	return &auth.Token{Value: string(s), Type: "Bearer"}, nil
}

// parse reads the two kinds of files that hold a key. Their requests for tokens go to an address that the file
// names, so they are made as the bucket's are.
func parse(client *http.Client, text []byte) (*auth.Credentials, error) {
	var file struct {
		Type credentials.CredType `json:"type"`
	}
	if json.Unmarshal(text, &file) != nil {
		return nil, errors.New("credentials_json is not JSON")
	}
	switch file.Type {
	case credentials.ServiceAccount, credentials.AuthorizedUser:
		creds, err := credentials.NewCredentialsFromJSON(file.Type, text, &credentials.DetectOptions{
			Scopes: []string{scope}, Client: client,
		})
		if err != nil {
			// Its text could quote the file.
			return nil, errors.New("credentials_json is not a complete key file")
		}
		return creds, nil
	}
	return nil, fmt.Errorf("credentials_json is of type %.40q; it can be service_account or authorized_user", file.Type)
}
