package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func newNode(a *app) *cobra.Command {
	command := &cobra.Command{Use: "node", Short: "Run and list nodes"}
	command.AddCommand(newNodeRun(a), newNodeLs(a))
	return command
}

func newNodeRun(a *app) *cobra.Command {
	return &cobra.Command{Use: "run", Short: "Run one node", RunE: func(*cobra.Command, []string) error { return errors.New("not yet") }}
}
