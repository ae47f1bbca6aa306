package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// diskTimeout is for what has to read a whole disk's metadata, or to rebuild them.
const diskTimeout = 10 * time.Minute

func disksPath(node string) string { return "/v1/cluster/nodes/" + url.PathEscape(node) + "/disks" }

// Disks lists the disks of a target.
func (c *Client) Disks(ctx context.Context, node string) ([]Disk, error) {
	var list DiskList
	err := c.get(ctx, disksPath(node), nil, &list)
	return list.Disks, err
}

// AddDisk has a target use one more directory.
func (c *Client) AddDisk(ctx context.Context, node string, d NewDisk) (Disk, error) {
	var disk Disk
	err := c.callFor(ctx, diskTimeout, http.MethodPost, disksPath(node), nil, d, &disk)
	return disk, err
}

// ChangeDisk disables or enables a disk.
func (c *Client) ChangeDisk(ctx context.Context, node, id string, change DiskChange) (Disk, error) {
	var disk Disk
	err := c.callFor(ctx, diskTimeout, http.MethodPatch, disksPath(node)+"/"+url.PathEscape(id), nil, change, &disk)
	return disk, err
}

// RemoveDisk has a target move the objects of a disk to its others, and then forget the disk: it begins that and
// returns. With force the disk is forgotten at once, with what only it has.
func (c *Client) RemoveDisk(ctx context.Context, node, id string, force bool) error {
	query := url.Values{}
	if force {
		query.Set("force", "true")
	}
	return c.callFor(ctx, diskTimeout, http.MethodDelete, disksPath(node)+"/"+url.PathEscape(id), query, nil, nil)
}
