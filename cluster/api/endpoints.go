package api

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"strings"
	"sync/atomic"
	"time"
)

// otherPatience is how long one of several gateways is waited for where the request may be repeated at another. One that
// is stopped, or behind a cut wire, accepts a connection and never answers.
const otherPatience = 10 * time.Second

// endpoints are the gateways that a client knows, and the one that it speaks to.
type endpoints struct {
	urls []*url.URL
	at   atomic.Int64 // rises with each change of gateway
}

// parseEndpoints reads one URL, or several, separated by commas.
func parseEndpoints(list string) (*endpoints, error) {
	e := &endpoints{}
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		u, err := url.Parse(part)
		if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
			return nil, fmt.Errorf("endpoint %q is not a URL of a gateway, such as %s", part, DefaultEndpoint)
		}
		e.urls = append(e.urls, u)
	}
	return e, nil
}

func (e *endpoints) several() bool { return len(e.urls) > 1 }

// current is the gateway to ask now; at tells next which one it was.
func (e *endpoints) current() (u *url.URL, at int64) {
	at = e.at.Load()
	return e.urls[at%int64(len(e.urls))], at
}

// next goes on to another gateway after a failure that another may not have. Those who failed at the same time go on by
// one together.
func (e *endpoints) next(at int64, err error) {
	if e.several() && passing(err) {
		e.at.CompareAndSwap(at, at+1)
	}
}

// has says whether a host is one of the gateways.
func (e *endpoints) has(host string) bool {
	for _, u := range e.urls {
		if u.Host == host {
			return true
		}
	}
	return false
}

// unsent says that a request was not even begun, as nobody was there to take it.
func unsent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}
