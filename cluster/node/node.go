package node

import (
	"cmp"
	"context"
	"errors"
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
		defer etcd.Close() //nolint:contextcheck // it takes its own time, which is short, also where a context has ended
	}
	members, err := connect(ctx, c, self, dirs, endpoints)
	if err != nil {
		return err
	}
	defer func() { _ = members.Close() }() // all calls have ended
	if err := dirs.joined(); err != nil {
		return err
	}
	metrics := c.metrics()
	origins, err := c.origins(members, metrics)
	if err != nil {
		return err
	}
	defer func() { _ = origins.Close() }() // all calls have ended
	g := gateway.New(gateway.Config{
		ID: c.ID, Version: c.Version, Members: members, Metrics: metrics, Logger: c.Logger, Origins: origins,
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

func runTarget(ctx context.Context, c Config, self api.Node, dirs *directories, table *diskTable, listener net.Listener) (err error) {
	watch := newDiskWatch()
	disks := table.disks()
	s, err := store.Open(c.storeOptions(disks, watch)) //nolint:contextcheck // its own work ends with Close
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
	alive, err := beginLife(c.work)
	if err != nil {
		return err
	}
	defer alive.end()
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
	watch.audit.Store(deletes)
	origins, err := c.origins(members, metrics)
	if err != nil {
		return err
	}
	defer func() { _ = origins.Close() }() // all calls have ended
	t := target.New(target.Config{
		ID: c.ID, Store: s, Members: members, Metrics: metrics, Logger: c.Logger,
		Audit: deletes, DeleteGrace: c.DeleteGrace, StrayGrace: c.StrayGrace, CommitTimeout: c.CommitTimeout,
		Origins: origins, CacheHigh: c.CacheHigh / 100, CacheLow: c.CacheLow / 100,
	})
	if err := errors.Join(metrics.WatchDisks(t.Disks), metrics.WatchCache(t.Cache().Stats)); err != nil {
		return err
	}
	defer t.Slices().Close() // before the store closes
	defer t.Cache().Close()  // likewise
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
		group.Go(func() error { return t.Cache().Run(ctx) })
		group.Go(func() error { return streams.Run(ctx) })
		group.Go(func() error { return copies.Run(ctx) })
		return group.Wait()
	}
	return c.serve(ctx, self, members, server, func(ctx context.Context) error {
		if err := c.takePart(ctx, members, transformations); err != nil {
			return err
		}
		if err := dirs.joined(); err != nil {
			return err
		}
		return c.persist(ctx, func() error { return alive.lookAgain(ctx, members) })
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
// while it registers. more runs as long as the node is a member.
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
	for _, f := range more {
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
