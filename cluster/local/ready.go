package local

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
)

// awaitReady waits until each gateway sees every node alive. It fails as soon as a node ends, with
// the end of its log: a node that can't start says why there.
func (s *supervisor) awaitReady(ctx context.Context, children []*child) error {
	limit, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	waitingFor := ""
	for {
		for _, c := range children {
			select {
			case err := <-c.exited:
				if err == nil && c.removed(ctx) { // while nobody took note of it
					s.drop(c.spec.ID)
					continue
				}
				return fmt.Errorf("%s did not start (%s); the end of its log, %s:\n%s",
					c.spec.ID, ending(err), s.layout.log(c.spec.ID), lastWords(s.layout.log(c.spec.ID), 12))
			default:
			}
		}
		if waitingFor = s.unready(limit, client); waitingFor == "" {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil // the user gave up; not an error
		case <-limit.Done():
			return fmt.Errorf("%s not ready after %s; the end of its log, %s:\n%s",
				waitingFor, readyTimeout, s.layout.log(waitingFor), tailOf(s.layout.log(waitingFor), 12))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// unready is the id of a node that is not ready yet, "" where all are.
func (s *supervisor) unready(ctx context.Context, client *http.Client) string {
	for _, gateway := range s.spec.Nodes {
		if gateway.Role != api.RoleGateway {
			continue
		}
		status, err := statusOf(ctx, client, "http://"+gateway.Addr())
		if err != nil {
			return gateway.ID
		}
		alive := map[string]bool{}
		for _, node := range status.Nodes {
			alive[node.ID] = node.State == api.StateOK
		}
		for _, node := range s.spec.Nodes {
			if !alive[node.ID] {
				return node.ID
			}
		}
	}
	return ""
}

func statusOf(ctx context.Context, client *http.Client, endpoint string) (status api.Status, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, endpoint+"/v1/cluster", nil)
	if err != nil {
		return status, err
	}
	answer, err := client.Do(request)
	if err != nil {
		return status, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return status, fmt.Errorf("%s answered %s", endpoint, answer.Status)
	}
	return status, json.NewDecoder(io.LimitReader(answer.Body, 1<<20)).Decode(&status)
}
