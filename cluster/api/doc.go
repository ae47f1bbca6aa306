// Package api is the cluster's public REST contract in Go: the JSON documents, the error
// codes, the header names, and a client for them. It holds no server code; the loader and the
// command line import this package and nothing else of the cluster.
package api
