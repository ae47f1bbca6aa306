// Package telemetry is what a node says about itself: metrics in a registry of its own, structured
// logs, and the request id that ties the lines of several nodes together.
//
// It knows no route and no store. A node makes one Metrics, passes its requests through Middleware
// (net/http) or Observe (fasthttp), and serves Handler on /metrics. Nothing is registered with the
// process-wide default registry: the embedded etcd keeps its metrics there, and two nodes may share
// a process in a test.
package telemetry
