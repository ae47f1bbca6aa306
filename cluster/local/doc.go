// Package local runs a whole cluster on one machine, for development, tests and small use: one
// supervisor process, and below it a child process for each node, so that a node can really be
// killed.
//
// Everything lies in one directory:
//
//	DIR/cluster.json         the nodes, their ports and disks: what every later `up` starts again
//	DIR/data/NODE/DISK/      what nodes store; it survives `down`
//	DIR/logs/NODE.log        output of a node, rotated by size; supervisor.log when detached
//	DIR/run/NODE.pid         pid of a node's process
//	DIR/run/supervisor.pid   pid of the supervisor, who holds a lock on this file while it lives
//
// The supervisor restarts a child that dies, on the same ports. The kernel kills all children when
// the supervisor dies (PDEATHSIG), so a `kill -9` of it leaves nothing behind. The package knows
// nodes by their command line and their public API only; what a node is, package node knows.
package local
