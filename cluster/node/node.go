package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/gateway"
	"github.com/shardstream/shardstream/cluster/heal"
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
	c.Settings = c.Settings.Complete()
	if ready := c.Ready; ready != nil {
		var once sync.Once
		c.Ready = func(self api.Node) { once.Do(func() { ready(self) }) }
	}
	for {
		err := run(ctx, c, &c.Listen)
		if !errors.Is(err, errWorkDisk) || ctx.Err() != nil {
			return err
		}
		c.Logger.WarnContext(ctx, "the disk with the node's own files is out of use; the node starts anew with another", "node", c.ID)
	}
}

// run runs a node until it ends or has to start anew, which it does at the same address.
func run(ctx context.Context, c Config, address *string) error {
	table, err := loadDiskTable(c.DataDirs, c.Logger)
	if err != nil {
		return err
	}
	if c.Role == api.RoleTarget {
		c.DataDirs = table.paths()
	}
	dirs, err := identify(&c, table.known)
	if err != nil {
		return err
	}
	table.self = dirs.self
	c.Logger = c.Logger.With("node", c.ID)
	listener, err := listen(ctx, *address)
	if err != nil {
		return err
	}
	*address = listener.Addr().String()
	defer func() { _ = listener.Close() }() // the server closes it first, where it came to that
	addr, err := advertised(c, listener)
	if err != nil {
		return err
	}
	self := api.Node{ID: c.ID, Role: c.Role, Addr: addr, PID: os.Getpid(), Weight: c.Weight}
	if c.Role == api.RoleTarget {
		return runTarget(ctx, c, self, dirs, table, listener)
	}
	if err := dirs.keep(); err != nil {
		return err
	}
	return runGateway(ctx, c, self, dirs, listener)
}

func runGateway(ctx context.Context, c Config, self api.Node, dirs *directories, listener net.Listener) error {
	etcd, endpoints, err := c.controlPlane(ctx, self)
	if err != nil {
		return err
	}
	if etcd != nil {
		defer etcd.Close()
	}
	members, err := connect(ctx, c, self, dirs, endpoints)
	if err != nil {
		return err
	}
	defer func() { _ = members.Close() }() // all calls have ended
	if err := dirs.joined(); err != nil {
		return err
	}
	g := gateway.New(gateway.Config{
		ID: c.ID, Version: c.Version, Members: members, Metrics: c.metrics(), Logger: c.Logger,
	})
	g.ServeETLs()
	g.ServeStreams(g.ETL)
	overseer := heal.NewOverseer(members, c.Logger)
	g.ServeRebalance(overseer)
	coordinator := g.ServeJobs()
	if err := g.Metrics().WatchJobs(coordinator.Running); err != nil {
		return err
	}
	return c.serve(ctx, self, members, func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return g.Serve(ctx, listener) })
		group.Go(func() error { return coordinator.Run(ctx) })
		group.Go(func() error { return overseer.Run(ctx) })
		group.Go(func() error { return coordinator.ScrubEvery(ctx, c.ScrubEvery) })
		if etcd != nil {
			keeper := membership.NewKeeper(members, etcd, cmp.Or(c.EtcdMembers, membership.DefaultEtcdMembers))
			group.Go(func() error { return keeper.Run(ctx) })
		}
		return group.Wait()
	}, nil)
}

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
	return etcd.Leave()
}

func runTarget(ctx context.Context, c Config, self api.Node, dirs *directories, table *diskTable, listener net.Listener) (err error) {
	watch := newDiskWatch()
	disks := table.disks()
	s, err := store.Open(c.storeOptions(disks, watch))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if c.work, err = watch.begin(s, disks); err != nil {
		return err
	}
	table.usable = func(id string) bool { return writable(s, id) }
	if err := dirs.keep(); err != nil {
		return err
	}
	if err := table.Save(disks); err != nil {
		return err
	}
	losses := s.Losses()
	self.Disks, self.Bare = target.Disks(s), dirs.replaced() || len(s.Lost()) > 0
	members, err := connect(ctx, c, self, dirs, nil)
	if err != nil {
		return err
	}
	defer func() { _ = members.Close() }() // all calls have ended
	metrics := c.metrics()
	deletes, err := c.openAudit()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, deletes.Close()) }()
	t := target.New(target.Config{
		ID: c.ID, Store: s, Members: members, Metrics: metrics, Logger: c.Logger,
		Audit: deletes, DeleteGrace: c.DeleteGrace, StrayGrace: c.StrayGrace,
	})
	if err := metrics.WatchDisks(t.Disks); err != nil {
		return err
	}
	keeper := target.NewDiskKeeper(t, disks, table, target.ToldDisks{Disks: self.Disks, Losses: losses})
	watch.tell(keeper.Changed)
	transformations, err := c.transformations(ctx, t, self.Addr)
	if err != nil {
		return err
	}
	defer transformations.Close() //nolint:contextcheck // runtimes that are let go outlive the request that did so
	streams, err := target.NewStreams(t, transformations, filepath.Join(c.work, "snapshots"), c.streamMemory())
	if err != nil {
		return err
	}
	defer streams.Wait() // before the store closes
	work, err := target.NewJobs(t, transformations, filepath.Join(c.work, "job-outputs"))
	if err != nil {
		return err
	}
	defer work.Wait() // likewise
	copies, err := target.NewHeal(t, c.heal())
	if err != nil {
		return err
	}
	scrubs := target.NewScrubs(t, target.ScrubConfig{Rate: max(int64(c.ScrubRate), 0)})
	defer scrubs.Wait() // before the store closes
	server := func(ctx context.Context) error {
		group, ctx := errgroup.WithContext(ctx)
		group.Go(func() error { return t.Serve(ctx, listener) })
		group.Go(func() error { return transformations.Run(ctx) })
		group.Go(func() error { return watch.run(ctx) })
		group.Go(func() error { return t.Slices().Run(ctx) })
		group.Go(func() error { return copies.Run(ctx) })
		return group.Wait()
	}
	return c.serve(ctx, self, members, server, func(ctx context.Context) error {
		if err := c.takePart(ctx, members, transformations); err != nil {
			return err
		}
		return dirs.joined()
	}, keeper.Run)
}

// transformations makes what runs users' code on a target.
func (c *Config) transformations(ctx context.Context, t *target.Target, addr string) (_ *target.ETLs, err error) {
	transformations, err := target.NewETLs(t, filepath.Join(c.work, "etl"))
	if err != nil {
		return nil, err
	}
	defer func() { //nolint:contextcheck // as there
		if err != nil {
			transformations.Close()
		}
	}()
	if err := transformations.Isolate(ctx, c.ETLIsolation, c.DataDirs); err != nil {
		return nil, err
	}
	if err := transformations.UseContainers(c.ETLEngine, filepath.Join(c.work, "containers"), addr); err != nil {
		return nil, err
	}
	kept, err := c.openOutputs()
	if err != nil || kept == nil {
		return transformations, err
	}
	return transformations, transformations.Keep(kept)
}

func (c *Config) metrics() *telemetry.Metrics {
	return telemetry.New(telemetry.Identity{Node: c.ID, Role: c.Role, Version: c.Version})
}

// serve runs membership and server side by side. A node whose registration was held serves those who know it from before
// while it registers.
func (c *Config) serve(ctx context.Context, self api.Node, members *membership.Membership, server, register func(context.Context) error, more ...func(context.Context) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return server(ctx) })
	if register != nil {
		if err := register(ctx); err != nil {
			group.Go(func() error { return err }) // ends the server
			return group.Wait()
		}
	}
	group.Go(func() error { return members.Run(ctx) })
	for _, f := range more { // as long as the node is a member
		group.Go(func() error { return f(ctx) })
	}
	c.Logger.InfoContext(ctx, "node is up", "role", c.Role, "addr", self.Addr, "data", c.DataDirs, "map", members.View().Map().Version)
	if c.Ready != nil {
		c.Ready(self)
	}
	err := group.Wait()
	c.Logger.Info("node stopped", "error", err)
	return err
}

// How long a target waits for its transformations before it takes traffic. One that comes back has most of what they
// need on its disks, and others wait for its objects.
const (
	newTargetWait   = 5 * time.Minute
	knownTargetWait = 20 * time.Second
)

// takePart registers a target once its transformations are ready, as far as they can be.
func (c *Config) takePart(ctx context.Context, members *membership.Membership, transformations *target.ETLs) error {
	patience := newTargetWait
	if members.Known() {
		patience = knownTargetWait
	}
	if c.ETLWait > 0 {
		patience = c.ETLWait
	}
	return c.persist(ctx, func() error {
		if err := transformations.MakeReady(ctx, patience); err != nil {
			return err
		}
		return members.Register(ctx)
	})
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
		Hold: c.Role == api.RoleTarget, Fresh: dirs.fresh(),
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
