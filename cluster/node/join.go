package node

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
)

// controlPlane is the way of a gateway to etcd: the one that runs elsewhere; or the one that it begins, or is a member of
// since earlier; or none yet, where it joins others that tell. What a gateway is then is its keeper's business.
func (c *Config) controlPlane(ctx context.Context, self api.Node) (*membership.Etcd, []string, error) {
	if len(c.Etcd) > 0 {
		return nil, c.Etcd, nil
	}
	host, _, err := net.SplitHostPort(self.Addr)
	if err != nil {
		return nil, nil, fmt.Errorf("address %q: %w", self.Addr, err)
	}
	etcd, err := membership.NewEtcd(membership.EtcdConfig{
		Dir: filepath.Join(c.DataDirs[0], "etcd"), Name: c.ID, Host: host, Logger: c.Logger, Several: c.EtcdMembers > 1,
	})
	if err != nil {
		return nil, nil, err
	}
	if !etcd.Exists() && c.Join != "" {
		return etcd, nil, nil
	}
	err = etcd.Start(ctx)
	if errors.Is(err, membership.ErrNotMember) && c.Join != "" {
		return etcd, nil, c.joinAgain(ctx, etcd, err)
	}
	if err != nil {
		return nil, nil, err
	}
	return etcd, etcd.Endpoints(), nil
}

// joinAgain gives up a gateway's part of etcd, if the other members have done so.
func (c *Config) joinAgain(ctx context.Context, etcd *membership.Etcd, cause error) error {
	endpoints, err := discover(ctx, c.joins())
	removed := false
	if err == nil {
		removed, err = etcd.Removed(ctx, endpoints)
	}
	if err != nil || !removed {
		return errors.Join(cause, err)
	}
	c.Logger.WarnContext(ctx, "etcd goes on without this gateway, which joins it again")
	return etcd.Leave() //nolint:contextcheck // it takes its own time, which is short, also where a context has ended
}

// Pauses between attempts to join.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// connect becomes a member, or gets as far as that for a target, whose registration is held.
func connect(ctx context.Context, c Config, self api.Node, dirs *directories, endpoints []string) (*membership.Membership, error) {
	config := membership.Config{
		Endpoints: endpoints, Self: self, LeaseTTL: c.LeaseTTL, Logger: c.Logger,
		Hold: c.Role == api.RoleTarget, Fresh: dirs.fresh(), Token: c.Token,
		Guard: c.Role == api.RoleGateway && (c.RequireToken || !onLoopback(self.Addr)),
	}
	if c.Join != "" && len(c.Etcd) == 0 {
		config.Rediscover = func(ctx context.Context) ([]string, error) { return discover(ctx, c.joins()) }
	}
	var members *membership.Membership
	err := c.persist(ctx, func() (err error) {
		if len(endpoints) == 0 {
			if config.Endpoints, err = discover(ctx, c.joins()); err != nil {
				return err
			}
		}
		members, err = membership.Join(ctx, config)
		return err
	})
	return members, err
}

// onLoopback says that an address is of this machine only.
func onLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}

// persist repeats a step of joining while the cluster does not answer. Where etcd is elsewhere, its gateway may still
// be starting, or be down for a while.
func (c *Config) persist(ctx context.Context, step func() error) error {
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := step()
		var away *membership.UnavailableError
		var silent *api.Error
		if err == nil || !errors.As(err, &away) && !(errors.As(err, &silent) && silent.Code == api.CodeUnavailable) {
			return err
		}
		if pause == lastPause {
			c.Logger.WarnContext(ctx, "waiting for the cluster", "join", c.Join, "error", err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stopped while waiting for the cluster: %w", err)
		case <-time.After(pause):
		}
	}
}

// discover asks gateways for the way to etcd, until one tells.
func discover(ctx context.Context, gateways []string) (endpoints []string, err error) {
	for _, gateway := range gateways {
		if endpoints, err = ask(ctx, gateway); err == nil {
			return endpoints, nil
		}
	}
	return nil, err
}

func ask(ctx context.Context, gateway string) ([]string, error) {
	client, err := api.NewClient(api.Options{Endpoint: gateway, Timeout: 5 * time.Second, RetryFor: -1})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	endpoints, err := client.ControlPlane(ctx)
	var answer *api.Error
	if err != nil && !errors.As(err, &answer) {
		return nil, api.Errorf(503, api.CodeUnavailable, "gateway %s does not answer: %v", gateway, err)
	}
	return endpoints, err
}
