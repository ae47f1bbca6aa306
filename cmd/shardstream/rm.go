package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newRm(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "rm ss://BUCKET/KEY...",
		Short: "Remove objects",
		Long: `rm removes objects: by address, by pattern, or with --recursive all below a
prefix. A bucket itself is removed by ` + "`bucket rm`" + `.`,
		Example: `  shardstream rm ss://digits/train-0000.tar
  shardstream rm 'ss://digits/old-*.tar'
  shardstream rm --recursive ss://digits/v1/`,
		Args: cobra.MinimumNArgs(1),
	}
	recursive := command.Flags().BoolP("recursive", "r", false, "remove all objects below a prefix")
	command.RunE = func(c *cobra.Command, addresses []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		removed := 0
		for _, address := range addresses {
			_, key, err := api.ParseAddress(address)
			if err != nil {
				return &usageError{err.Error()}
			}
			if (key == "" || strings.HasSuffix(key, "/")) && !*recursive {
				return usagef("%s is a prefix: --recursive removes all below it", address)
			}
			objects, err := find(c.Context(), client, address)
			if err != nil {
				return err
			}
			for _, object := range objects {
				if err := client.DeleteObject(c.Context(), object.Bucket, object.Name); err != nil {
					return fmt.Errorf("after %d objects were removed: %w", removed, err)
				}
				removed++
				a.printf("removed %s\n", api.Address(object.Bucket, object.Name))
			}
		}
		return nil
	}
	return command
}
