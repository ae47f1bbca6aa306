package membership

import (
	"context"
	"slices"
	"sync"

	clientv3 "go.etcd.io/etcd/client/v3"
)

// Endpoints are etcd's, as far as this node knows, whether they answer or not.
func (m *Membership) Endpoints() []string {
	if v := m.View(); v != nil && len(v.endpoints) > 0 {
		return slices.Clone(v.endpoints)
	}
	return slices.Clone(m.config.Endpoints)
}

// learnEndpoints goes by the endpoints that the view names, where these have changed.
func (m *Membership) learnEndpoints(before, now *View) {
	if now != nil && len(now.endpoints) > 0 && (before == nil || !slices.Equal(before.endpoints, now.endpoints)) {
		m.client.SetEndpoints(now.endpoints...)
	}
}

// chooseEndpoints leaves out those endpoints that do not answer, as a call to them would only find out at its deadline.
// False where none is left.
func (m *Membership) chooseEndpoints(ctx context.Context) bool {
	known := m.Endpoints()
	answers := make([]bool, len(known))
	ctx, cancel := context.WithTimeout(ctx, m.config.LeaseTTL/attemptParts)
	defer cancel()
	var wait sync.WaitGroup
	for i, endpoint := range known {
		wait.Go(func() { answers[i] = serves(ctx, endpoint) })
	}
	wait.Wait()
	var alive []string
	for i, endpoint := range known {
		if answers[i] {
			alive = append(alive, endpoint)
		}
	}
	if len(alive) == 0 {
		return false
	}
	if now := m.client.Endpoints(); !sameStrings(now, alive) {
		m.log.InfoContext(ctx, "parts of the control plane that answer", "endpoints", alive, "known", len(known))
		m.client.SetEndpoints(alive...)
	}
	return true
}

// serves says that an endpoint answers for all of etcd: one that is cut off from the others can't.
func serves(ctx context.Context, endpoint string) bool {
	client, err := newClient([]string{endpoint})
	if err != nil {
		return false
	}
	defer func() { _ = client.Close() }() // nothing is under way
	_, err = client.Get(ctx, root+"cluster", clientv3.WithKeysOnly())
	return err == nil
}

// reduced says that known endpoints are left out for now.
func (m *Membership) reduced() bool { return len(m.client.Endpoints()) < len(m.Endpoints()) }

func sameStrings(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}

// rediscover looks for etcd elsewhere once it has been silent for a few renewals.
func (m *Membership) rediscover(ctx context.Context, failures int) {
	if len(m.Endpoints()) > 1 && m.chooseEndpoints(ctx) {
		return
	}
	if failures == silentRenewals {
		m.log.WarnContext(ctx, "the control plane does not answer; serving by the last map")
	}
	if failures < silentRenewals || m.config.Rediscover == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if endpoints, err := m.config.Rediscover(ctx); err == nil && len(endpoints) > 0 {
		m.client.SetEndpoints(endpoints...)
	}
}

// silentRenewals is the number of renewals in a row that must have failed before etcd is looked for at other gateways.
const silentRenewals = 3
