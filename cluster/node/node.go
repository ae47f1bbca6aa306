package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/gateway"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/target"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/store"
)

// Run runs a node until the context ends or something that it can't do without fails. A gateway to join
// that does not answer yet is waited for.
func Run(ctx context.Context, c Config) error {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if err := c.check(); err != nil {
		return err
	}
	keep, err := identify(&c)
	if err != nil {
		return err
	}
	c.Logger = c.Logger.With("node", c.ID)
	listener, err := listen(ctx, c.Listen)
	if err != nil {
		return err
	}
	defer func() { _ = listener.Close() }() // the server closes it first, where it came to that
	addr, err := advertised(c, listener)
	if err != nil {
		return err
	}
	self := api.Node{ID: c.ID, Role: c.Role, Addr: addr, PID: os.Getpid(), Weight: c.Weight}
	if c.Role == api.RoleTarget {
		return runTarget(ctx, c, self, keep, listener)
	}
	if err := keep(); err != nil {
		return err
	}
	return runGateway(ctx, c, self, listener)
}

func runGateway(ctx context.Context, c Config, self api.Node, listener net.Listener) error {
	var failed <-chan error
	var endpoints []string
	if c.Join == "" {
		host, _, err := net.SplitHostPort(self.Addr)
		if err != nil {
			return fmt.Errorf("address %q: %w", self.Addr, err)
		}
		etcd, err := membership.StartEtcd(ctx, membership.EtcdConfig{
			Dir: filepath.Join(c.DataDirs[0], "etcd"), Name: c.ID, Host: host, Logger: c.Logger,
		})
		if err != nil {
			return err
		}
		defer etcd.Close()
		endpoints, failed = etcd.Endpoints(), etcd.Err()
	}
	members, err := join(ctx, c, self, endpoints)
	if err != nil {
		return err
	}
	defer func() { _ = members.Close() }() // all calls have ended
	g := gateway.New(gateway.Config{
		ID: c.ID, Version: c.Version, Members: members, Metrics: c.metrics(), Logger: c.Logger,
	})
	g.ServeETLs()
	g.ServeStreams(g.ETL)
	coordinator := g.ServeJobs()
	if err := g.Metrics().WatchJobs(coordinator.Running); err != nil {
		return err
	}
	return c.serve(ctx, self, members, failed, func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return g.Serve(ctx, listener) })
		group.Go(func() error { return coordinator.Run(ctx) })
		return group.Wait()
	})
}

func runTarget(ctx context.Context, c Config, self api.Node, keep func() error, listener net.Listener) (err error) {
	s, err := store.Open(store.Options{Disks: disks(c.DataDirs), Logger: c.Logger})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := keep(); err != nil {
		return err
	}
	self.Disks = target.Disks(s)
	members, err := join(ctx, c, self, nil)
	if err != nil {
		return err
	}
	defer func() { _ = members.Close() }() // all calls have ended
	metrics := c.metrics()
	t := target.New(target.Config{ID: c.ID, Store: s, Members: members, Metrics: metrics, Logger: c.Logger})
	if err := metrics.WatchDisks(t.Disks); err != nil {
		return err
	}
	transformations := target.NewETLs(t)
	if err := transformations.UseContainers(c.ETLEngine, filepath.Join(c.DataDirs[0], "containers"), self.Addr); err != nil {
		return err
	}
	kept, err := c.openOutputs()
	if err != nil {
		return err
	}
	if kept != nil {
		if err := transformations.Keep(kept); err != nil {
			return err
		}
	}
	streams, err := target.NewStreams(t, transformations, filepath.Join(c.DataDirs[0], "snapshots"), c.streamMemory())
	if err != nil {
		return err
	}
	defer streams.Wait() // before the store closes
	work, err := target.NewJobs(t, transformations, filepath.Join(c.DataDirs[0], "job-outputs"))
	if err != nil {
		return err
	}
	defer work.Wait() // likewise
	return c.serve(ctx, self, members, nil, func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return t.Serve(ctx, listener) })
		group.Go(func() error { return transformations.Run(ctx) })
		return group.Wait()
	})
}

func (c *Config) metrics() *telemetry.Metrics {
	return telemetry.New(telemetry.Identity{Node: c.ID, Role: c.Role, Version: c.Version})
}

// serve runs membership and server side by side; failed reports the end of etcd, where it runs here.
func (c *Config) serve(ctx context.Context, self api.Node, members *membership.Membership, failed <-chan error, server func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return members.Run(ctx) })
	group.Go(func() error { return server(ctx) })
	group.Go(func() error {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			return fmt.Errorf("etcd ended: %w", err)
		}
	})
	c.Logger.InfoContext(ctx, "node is up", "role", c.Role, "addr", self.Addr, "data", c.DataDirs, "map", members.View().Map().Version)
	if c.Ready != nil {
		c.Ready(self)
	}
	err := group.Wait()
	c.Logger.Info("node stopped", "error", err)
	return err
}

// Pauses between attempts to join.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 2 * time.Second
)

// join becomes a member. Where etcd is elsewhere, its gateway may still be starting, or be down for a
// while: that is waited for.
func join(ctx context.Context, c Config, self api.Node, endpoints []string) (*membership.Membership, error) {
	config := membership.Config{Endpoints: endpoints, Self: self, LeaseTTL: c.LeaseTTL, Logger: c.Logger}
	if c.Join != "" {
		config.Rediscover = func(ctx context.Context) ([]string, error) { return discover(ctx, c.Join) }
	}
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		var err error
		if c.Join != "" {
			config.Endpoints, err = discover(ctx, c.Join)
		}
		if err == nil {
			var members *membership.Membership
			if members, err = membership.Join(ctx, config); err == nil {
				return members, nil
			}
		}
		var away *membership.UnavailableError
		var silent *api.Error
		if !errors.As(err, &away) && !(errors.As(err, &silent) && silent.Code == api.CodeUnavailable) {
			return nil, err
		}
		if pause == lastPause {
			c.Logger.WarnContext(ctx, "waiting for the cluster", "join", c.Join, "error", err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("stopped while waiting for the cluster: %w", err)
		case <-time.After(pause):
		}
	}
}

// discover asks a gateway for the way to etcd.
func discover(ctx context.Context, gateway string) ([]string, error) {
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
