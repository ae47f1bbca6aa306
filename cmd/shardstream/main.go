// Command shardstream is the whole product in one binary: the nodes of a cluster, a supervisor for
// a cluster on this machine, and the client. This package parses, constructs and prints; what is
// done is done in the packages below cluster/ and loader/.
package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

// Exit codes.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	go func() { // a second Ctrl-C ends the process at once
		<-ctx.Done()
		stop()
	}()

	a := &app{in: os.Stdin, out: os.Stdout, err: os.Stderr}
	root := newRoot(a)
	root.SetArgs(args)
	command, err := root.ExecuteContextC(ctx)
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errSilent):
		return exitFailed
	case errors.As(err, &usage) || !a.started:
		fmt.Fprintf(a.err, "shardstream: %v; see `%s --help`\n", err, command.CommandPath())
		return exitUsage
	}
	fmt.Fprintln(a.err, "shardstream: "+explain(ctx, err, a.endpoint))
	return exitFailed
}

// explain says in one line what happened and what to do. (Only the end of a node's log, and the
// traceback of user code, follow on lines of their own.)
func explain(ctx context.Context, err error, endpoint string) string {
	var request *url.Error
	switch {
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		return "interrupted"
	case errors.Is(err, syscall.ECONNREFUSED) && errors.As(err, &request) && startsWithOne(request.URL, endpoint):
		return fmt.Sprintf("no gateway answers at %s: start a cluster with `shardstream up`, or name another with --endpoint or SHARDSTREAM_ENDPOINT", endpoint)
	}
	return strings.TrimRight(err.Error(), "\n")
}

// startsWithOne says whether a URL is below one of several, separated by commas.
func startsWithOne(at, endpoints string) bool {
	for e := range strings.SplitSeq(endpoints, ",") {
		if strings.HasPrefix(at, strings.TrimSpace(e)) {
			return true
		}
	}
	return false
}
