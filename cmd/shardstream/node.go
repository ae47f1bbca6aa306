package main

import (
	"errors"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/cluster/membership"
	"github.com/shardstream/shardstream/cluster/node"
	"github.com/shardstream/shardstream/cluster/telemetry"
	"github.com/shardstream/shardstream/core/backend"
	"github.com/shardstream/shardstream/etl/engine"
)

func newNode(a *app) *cobra.Command {
	command := &cobra.Command{Use: "node", Short: "Run, list, drain and remove nodes, and change their disks"}
	command.AddCommand(newNodeRun(a), newNodeLs(a), newNodeDrain(a), newNodeRm(a), newNodeToken(a), newDisk(a))
	return command
}

func newNodeRun(a *app) *cobra.Command {
	config := node.Config{Version: versionText()}
	var log telemetry.Log
	var settings string
	command := &cobra.Command{
		Use:   "run --role ROLE --data DIR[,DIR] --listen ADDR",
		Short: "Run one node of a cluster, until Ctrl-C or SIGTERM",
		Long: `run runs one node of a cluster: a gateway, which clients talk to, or a target,
which stores. The first gateway begins a cluster; every other node joins it by
the URL of any gateway. Of three gateways or more, three hold etcd, so that any
one of them may fail. Logs go to stderr.`,
		Example: `  shardstream node run --role gateway --data /var/lib/shardstream --listen 127.0.0.1:7070
  shardstream node run --role target --join http://127.0.0.1:7070 --data /disk1,/disk2 --listen 127.0.0.1:7071`,
		Args: cobra.NoArgs,
	}
	flags := command.Flags()
	flags.StringVar(&config.Role, "role", "", "what the node is: gateway or target (required)")
	flags.StringVar(&config.ID, "id", "", "name of the node; the one in its data directory, or a new one")
	flags.StringVar(&config.Join, "join", "", "URL of a gateway of the cluster to join, or of several, separated by commas")
	flags.StringVar(&config.Token, "token", os.Getenv("SHARDSTREAM_JOIN_TOKEN"), "token for a new node, from 'shardstream node token' (SHARDSTREAM_JOIN_TOKEN)")
	flags.BoolVar(&config.RequireToken, "require-token", false, "of a gateway: new nodes need a token, as in any case where it can be reached from other machines")
	flags.StringSliceVar(&config.Etcd, "etcd", nil, "of a gateway: client URLs of an etcd that runs elsewhere, instead of one on the gateways")
	flags.IntVar(&config.EtcdMembers, "etcd-members", 0, "how many gateways hold etcd, if there are that many: 1, 3 or 5 (3)")
	flags.StringSliceVar(&config.DataDirs, "data", nil, "directories of the node's data, one for each disk (required)")
	flags.StringVar(&config.Listen, "listen", "", "address to listen on, host:port (required)")
	flags.StringVar(&config.Advertise, "advertise", "", "address at which others reach the node, where it is another one")
	flags.Float64Var(&config.Weight, "weight", 0, "share of the objects that a new target takes (1)")
	flags.Var((*sizeValue)(&config.StreamMemory), "stream-memory", "memory that a target's streams may take, such as 4GiB (a quarter of the machine's)")
	flags.DurationVar(&config.ETLWait, "etl-wait", 0, "how long a target waits for its transformations before it takes traffic (5m where it is new, 20s where it comes back)")
	isolationFlag(command, &config.ETLIsolation)
	flags.StringVar(&config.ETLEngine, "etl-engine", engine.Auto, "what runs containers of ETLs: "+strings.Join(engine.Names, ", "))
	flags.Var((*quotaValue)(&config.ETLCache), "etl-cache", "disk that a target's kept outputs of transformations may take, 0 for none (10GiB, at most a tenth of its first disk)")
	flags.BoolVar(&config.Insecure, "insecure", false, "listen on a network without TLS and login")
	configFlag(command, &settings)
	var allow []string
	allowFlag(command, &allow)
	logFlags(command, &log)
	command.RunE = func(c *cobra.Command, _ []string) error {
		if config.Role != api.RoleGateway && config.Role != api.RoleTarget {
			return usagef("--role must be %s or %s, not %q", api.RoleGateway, api.RoleTarget, config.Role)
		}
		if len(config.DataDirs) == 0 || config.Listen == "" {
			return usagef("a node needs --data and --listen")
		}
		if err := checkConfinement(config.ETLIsolation, config.ETLEngine); err != nil {
			return err
		}
		if config.ETLWait < 0 {
			return usagef("--etl-wait must be 0 or more, not %v", config.ETLWait)
		}
		if settings != "" {
			var err error
			if config.Settings, err = node.ReadSettings(settings); err != nil {
				return usagef("%v", err)
			}
		}
		if err := checkAllow(allow); err != nil {
			return err
		}
		config.BackendAllow = append(config.BackendAllow, allow...)
		logger, err := telemetry.NewLogger(a.err, log)
		if err != nil {
			return usagef("%v", err)
		}
		config.Logger = logger
		debug.SetTraceback("all") // a crash must show what every goroutine was at
		err = node.Run(c.Context(), config)
		if errors.Is(err, membership.ErrRemoved) && c.Context().Err() == nil {
			logger.Warn("the node was removed from the cluster: it can join again with empty data directories, or under another id")
			return nil
		}
		if stopped := c.Context().Err(); stopped != nil {
			if err != nil && !errors.Is(err, stopped) {
				logger.Warn("the node did not stop cleanly", "error", err)
			}
			return nil // as it was asked to
		}
		if err != nil { // of the configuration, all faults at once
			return errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
		}
		return nil
	}
	return command
}

// configFlag adds --config.
func configFlag(command *cobra.Command, path *string) {
	command.Flags().StringVar(path, "config", "", "YAML file of times and rates, the same for all nodes of a cluster")
}

// allowFlag adds --backend-allow.
func allowFlag(command *cobra.Command, allow *[]string) {
	command.Flags().StringSliceVar(allow, "backend-allow", environmentList("SHARDSTREAM_BACKEND_ALLOW"),
		"networks and addresses that backends of buckets may be at besides the internet's, such as 10.0.0.0/8 (SHARDSTREAM_BACKEND_ALLOW)")
}

// environmentList reads a list separated by commas.
func environmentList(name string) []string {
	return strings.FieldsFunc(os.Getenv(name), func(r rune) bool { return r == ',' || r == ' ' })
}

func checkAllow(allow []string) error {
	if _, err := backend.ParseAllow(allow); err != nil {
		return usagef("--backend-allow: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
	}
	return nil
}
