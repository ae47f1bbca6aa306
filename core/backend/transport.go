package backend

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/http"
	"net/url"
	"time"
)

// answerTimeout is how long a request waits for an answer to begin where Config does not say.
const answerTimeout = 30 * time.Second

// HTTPClient makes the client that all of a backend's requests go through. It follows no redirects: a vendor's request
// carries credentials, and these are for the place that they were given for.
func (c Config) HTTPClient() (*http.Client, error) {
	transport, err := c.Transport()
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// Transport makes HTTP connections as the configuration says: by its Dial, with its certificates, and bytes as they
// are stored. It speaks HTTP/1.1, where each read has a connection of its own: many large reads at once are faster so
// than as streams of one.
func (c Config) Transport() (*http.Transport, error) {
	timeout := c.Timeout
	if timeout <= 0 {
		timeout = answerTimeout
	}
	dial := c.Dial
	if dial == nil {
		dial = (&net.Dialer{Timeout: timeout, KeepAlive: 30 * time.Second}).DialContext
	}
	security := &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.Insecure} //nolint:gosec // only where the user asks for it
	if len(c.CA) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(c.CA) {
			return nil, &Error{
				Backend: c.Address.String(), Op: "connect", Kind: Failed,
				Err: errors.New("the certificates to be trusted are not PEM"),
			}
		}
		security.RootCAs = pool
	}
	var proxy func(*http.Request) (*url.URL, error)
	if c.EnvProxy {
		proxy = http.ProxyFromEnvironment
	}
	return &http.Transport{
		Proxy:                 proxy,
		DialContext:           dial,
		TLSClientConfig:       security,
		TLSHandshakeTimeout:   timeout,
		ResponseHeaderTimeout: timeout,
		ExpectContinueTimeout: time.Second,
		DisableCompression:    true,
		MaxIdleConns:          512,
		MaxIdleConnsPerHost:   128,
		IdleConnTimeout:       60 * time.Second,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
	}, nil
}
