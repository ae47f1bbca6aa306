// Package membership is what the nodes of a cluster agree on: who belongs to it, at which address,
// who is alive, which buckets and transformations exist. All of it lies in etcd, in a few small keys:
//
//	/shardstream/cluster          the cluster's id, written once
//	/shardstream/map              the versioned map (api.Map without states); changed by compare-and-swap
//	/shardstream/members/<id>     a member, until it is removed: a target that is down keeps its place, as
//	                              its objects stay on its disks
//	/shardstream/removed/<id>     a member that was removed: its id is taken again with empty disks only
//	/shardstream/live/<id>        the same member while its process lives, bound to a lease
//	/shardstream/etcd/<id>        a gateway's offer to be one of etcd's members
//	/shardstream/endpoints        where etcd's members are, once there is more than one
//	/shardstream/leader           the gateway that leads, bound to its lease
//	/shardstream/tokens/<hash>    a token that a new node may join with, bound to the time that it is valid for
//	/shardstream/guarded          there where new nodes need one
//	/shardstream/buckets/<name>   a bucket
//	/shardstream/etls/<name>      and other small definitions, through KV
//
// Object metadata is never here: it would tie the number of objects to etcd's size and every PUT to
// its speed.
//
// A node Joins, then Runs: that keeps its lease and a watch, so that View is a local read, a few
// milliseconds old at most while etcd answers. Where a stale answer would be wrong (an unknown bucket
// that was made a moment ago on another gateway) there are calls that ask etcd itself.
//
// etcd runs inside of gateways: the first one begins it as its single member, and others join until it has three, or
// five (see Keeper); or it runs elsewhere. While it is down the map can't change and buckets can't be made, and objects of
// one copy go on being read and written by the last map.
package membership
