package membership

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/shardstream/shardstream/cluster/api"
)

// DefaultTokenTTL is how long a token for a new node is valid.
const DefaultTokenTTL = time.Hour

// ErrToken is returned to a new node that has no valid token where one is needed.
var ErrToken = errors.New("the cluster takes a new node with a token that was not used yet: " +
	"make one by `shardstream node token`, and give it to the node by --token")

// guarded is the key that says that new nodes need a token.
const guarded = root + "guarded"

// NewToken makes a token that one new node can join with, once, within its time. etcd keeps its hash only, and forgets
// that when the time is over.
func (m *Membership) NewToken(ctx context.Context, ttl time.Duration) (api.JoinToken, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var b [20]byte
	_, _ = rand.Read(b[:]) // never fails: see crypto/rand
	token := api.JoinToken{Token: hex.EncodeToString(b[:]), Expires: time.Now().Add(ttl).UTC().Truncate(time.Second)}
	lease, err := m.client.Grant(ctx, int64(ttl/time.Second))
	if err != nil {
		return token, unavailable(err)
	}
	if _, err := m.client.Put(ctx, tokenKey(token.Token), "{}", clientv3.WithLease(lease.ID)); err != nil {
		return token, unavailable(err)
	}
	return token, nil
}

func tokenKey(token string) string {
	hash := sha256.Sum256([]byte(token))
	return root + "tokens/" + hex.EncodeToString(hash[:])
}

// admission is what a node's entry into the cluster needs besides its place in the map.
type admission struct {
	newCluster bool // the node is the first of all
	removed    bool // one of its id was removed
	guarded    bool // a new node needs a token
	token      bool // the node's is valid
	alive      bool // a node of its id is up, as far as is known
}

// reads are the reads of a transaction that admissionOf makes an admission of.
func (m *Membership) admissionReads() []clientv3.Op {
	return []clientv3.Op{
		clientv3.OpGet(root + "cluster"), clientv3.OpGet(root + "removed/" + m.self.ID),
		clientv3.OpGet(guarded), clientv3.OpGet(tokenKey(m.config.Token)), clientv3.OpGet(root + "live/" + m.self.ID),
	}
}

func admissionOf(answer *clientv3.TxnResponse, at int) admission {
	there := func(i int) bool { return len(answer.Responses[at+i].GetResponseRange().Kvs) > 0 }
	return admission{newCluster: !there(0), removed: there(1), guarded: there(2), token: there(3), alive: there(4)}
}

// unique refuses a node with empty data directories while another is up that goes by its id: it can't be that one again.
// Where that one has just died, its lease ends soon.
func (a admission) unique(m *Membership, p *proposal) error {
	if !m.config.Fresh || m.registered {
		return nil
	}
	if a.alive {
		return api.Errorf(http.StatusServiceUnavailable, api.CodeUnavailable,
			"%s %s is up, and this one has empty data directories: end that one, or give this one another id", m.self.Role, m.self.ID)
	}
	p.ifs = append(p.ifs, clientv3.Compare(clientv3.CreateRevision(root+"live/"+m.self.ID), "=", 0))
	return nil
}

// enter adds to a registration what the admission makes of it.
func (a admission) enter(m *Membership, known bool, p *proposal) error {
	if a.removed && !m.config.Fresh {
		return fmt.Errorf("%s %s: it can join again with empty data directories, or under another id: %w", m.self.Role, m.self.ID, ErrRemoved)
	}
	if a.removed {
		p.writes = append(p.writes, clientv3.OpDelete(root+"removed/"+m.self.ID))
	}
	if a.newCluster {
		p.writes = append(p.writes, clientv3.OpPut(root+"cluster", newClusterID()))
		p.ifs = append(p.ifs, clientv3.Compare(clientv3.CreateRevision(root+"cluster"), "=", 0))
	}
	if m.config.Guard && !a.guarded && (a.newCluster || known) {
		p.writes = append(p.writes, clientv3.OpPut(guarded, "true"))
	}
	if known || a.newCluster {
		return nil
	}
	if a.guarded && !a.token {
		return fmt.Errorf("%s %s: %w", m.self.Role, m.self.ID, ErrToken)
	}
	if a.token { // and nobody else spends it
		p.ifs = append(p.ifs, clientv3.Compare(clientv3.CreateRevision(tokenKey(m.config.Token)), ">", 0))
		p.writes = append(p.writes, clientv3.OpDelete(tokenKey(m.config.Token)))
	} else { // nor is one needed by then
		p.ifs = append(p.ifs, clientv3.Compare(clientv3.CreateRevision(guarded), "=", 0))
	}
	return nil
}
