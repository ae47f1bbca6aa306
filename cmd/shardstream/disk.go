package main

import (
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/shardstream/shardstream/cluster/api"
)

func newDisk(a *app) *cobra.Command {
	command := &cobra.Command{Use: "disk", Short: "List, add, disable, enable and remove the disks of a target"}
	command.AddCommand(newDiskLs(a), newDiskAdd(a), newDiskDisable(a), newDiskEnable(a), newDiskRm(a))
	return command
}

func newDiskLs(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:     "ls NODE",
		Short:   "List the disks of a target",
		Example: "  shardstream node disk ls target-1 --json",
		Args:    cobra.ExactArgs(1),
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		disks, err := client.Disks(c.Context(), args[0])
		if err != nil {
			return err
		}
		if *asJSON {
			return a.printJSON(api.DiskList{Disks: orEmpty(disks)})
		}
		return a.table("DISK\tSTATE\tPATH\tUSED\tCAPACITY\tREASON", func(w io.Writer) {
			for _, d := range disks {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", d.ID, d.State, d.Path, size(d.Used), size(d.Capacity), diskReason(d))
			}
		})
	}
	return command
}

// diskReason says why a disk is in its state, and how far its objects are moved where it is leaving.
func diskReason(d api.Disk) string {
	if d.Move == nil {
		return d.Reason
	}
	text := fmt.Sprintf("%d objects moved (%s)", d.Move.Moved, size(d.Move.Bytes))
	if d.Move.Detail != "" {
		text += ": " + d.Move.Detail
	}
	return text
}

func newDiskAdd(a *app) *cobra.Command {
	var id string
	command := &cobra.Command{
		Use:   "add NODE PATH",
		Short: "Have a target use one more directory",
		Long: `add has a target use one more directory of its machine: an empty one, on a file
system of its own. New objects get their share of it at once.`,
		Example: "  shardstream node disk add target-1 /mnt/disk4",
		Args:    cobra.ExactArgs(2),
	}
	command.Flags().StringVar(&id, "id", "", "name of the disk; that of its directory")
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		if !filepath.IsAbs(args[1]) {
			return usagef("PATH is of the target's machine: give an absolute one, not %q", args[1])
		}
		client, err := a.client()
		if err != nil {
			return err
		}
		d, err := client.AddDisk(c.Context(), args[0], api.NewDisk{Path: args[1], ID: id})
		if err != nil {
			return err
		}
		return a.printDisk(d, *asJSON)
	}
	return command
}

func (a *app) printDisk(d api.Disk, asJSON bool) error {
	if asJSON {
		return a.printJSON(d)
	}
	a.printf("%s at %s is %s\n", d.ID, d.Path, d.State)
	return nil
}

func newDiskDisable(a *app) *cobra.Command {
	command := &cobra.Command{
		Use:   "disable NODE DISK",
		Short: "Put a disk out of use, with what is on it",
		Long: `disable puts a disk out of use until it is enabled, also across restarts. Objects
that have copies on other targets are made anew; those that only this disk has
answer 503 meanwhile.`,
		Example: "  shardstream node disk disable target-1 disk-2",
		Args:    cobra.ExactArgs(2),
	}
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		return a.changeDisk(c, args, api.DiskChange{State: api.DiskDisabled}, *asJSON)
	}
	return command
}

func newDiskEnable(a *app) *cobra.Command {
	var anew bool
	command := &cobra.Command{
		Use:   "enable NODE DISK",
		Short: "Use a disk again that was disabled, has failed or is leaving",
		Long: `enable uses a disk again, with what is on it: what was overwritten or deleted
meanwhile is gone. A disk that was replaced by an empty one, or wiped, needs
--anew: what only it had is given up.`,
		Example: "  shardstream node disk enable target-1 disk-2 --anew",
		Args:    cobra.ExactArgs(2),
	}
	command.Flags().BoolVar(&anew, "anew", false, "begin an empty disk in its place")
	asJSON := jsonFlag(command)
	command.RunE = func(c *cobra.Command, args []string) error {
		return a.changeDisk(c, args, api.DiskChange{State: api.StateOK, Anew: anew}, *asJSON)
	}
	return command
}

func (a *app) changeDisk(c *cobra.Command, args []string, change api.DiskChange, asJSON bool) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	d, err := client.ChangeDisk(c.Context(), args[0], args[1], change)
	if err != nil {
		return err
	}
	return a.printDisk(d, asJSON)
}

func newDiskRm(a *app) *cobra.Command {
	var force, wait bool
	command := &cobra.Command{
		Use:   "rm NODE DISK",
		Short: "Move the objects of a disk to the target's other disks, then forget it",
		Long: `rm moves the objects of a disk to the target's other disks, each one verified
there, and then has the target forget the disk. A disk that is out of use can
only be forgotten with --force: objects of which only it has a copy are lost.`,
		Example: "  shardstream node disk rm target-1 disk-2 --wait",
		Args:    cobra.ExactArgs(2),
	}
	command.Flags().BoolVar(&force, "force", false, "forget the disk at once, with what only it has")
	command.Flags().BoolVar(&wait, "wait", false, "return when it is removed")
	command.RunE = func(c *cobra.Command, args []string) error {
		client, err := a.client()
		if err != nil {
			return err
		}
		if err := client.RemoveDisk(c.Context(), args[0], args[1], force); err != nil {
			return err
		}
		if wait {
			if err := awaitRemoval(c, client, args[0], args[1]); err != nil {
				return err
			}
		}
		if force || wait {
			a.printf("%s of %s is removed\n", args[1], args[0])
		} else {
			a.printf("%s of %s is leaving; see `shardstream node disk ls %s`\n", args[1], args[0], args[0])
		}
		return nil
	}
	return command
}

const removalPoll = 200 * time.Millisecond

// awaitRemoval waits until a target has no such disk any more. A target that starts anew meanwhile, as its own files were
// there, is waited for.
func awaitRemoval(c *cobra.Command, client *api.Client, node, id string) error {
	for {
		disks, err := client.Disks(c.Context(), node)
		if err != nil {
			return err
		}
		gone := true
		for _, d := range disks {
			if d.ID != id {
				continue
			}
			gone = false
			if d.State != api.DiskLeaving {
				return fmt.Errorf("disk %s is %s: it was to leave, but was changed meanwhile", id, d.State)
			}
			if d.Move != nil && d.Move.Detail != "" {
				return fmt.Errorf("disk %s can't leave: %s; repair or delete what it names, then remove it again, or enable the disk", id, d.Move.Detail)
			}
		}
		if gone {
			return nil
		}
		select {
		case <-c.Context().Done():
			return c.Context().Err()
		case <-time.After(removalPoll):
		}
	}
}
