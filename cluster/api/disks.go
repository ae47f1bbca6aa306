package api

import (
	"context"
	"net/http"
	"net/url"
	"time"
)

// States of a disk beside StateOK. One that is failed or disabled is out of use: objects of one copy that only it has
// can't be read, nor told from those that never were, until it is back or removed.
const (
	DiskFull     = "full"     // objects can be read and deleted, but not put there
	DiskReadOnly = "readonly" // its file system can't be written
	DiskLeaving  = "leaving"  // its objects are being moved to the target's other disks
	DiskFailed   = "failed"   // after an error
	DiskDisabled = "disabled" // by hand
)

// Disk is one disk of a target.
type Disk struct {
	ID       string    `json:"id"`
	Path     string    `json:"path"`
	State    string    `json:"state"`
	Reason   string    `json:"reason,omitempty"`   // for a state other than ok
	Used     int64     `json:"used"`               // bytes, of the file system; as last known of one out of use
	Capacity int64     `json:"capacity"`           // bytes, of the file system
	Reserved int64     `json:"reserved,omitempty"` // bytes that are kept for the cluster's own work
	Move     *DiskMove `json:"move,omitempty"`     // of a disk that is leaving
}

// Out says whether the disk is out of use.
func (d *Disk) Out() bool { return d.State == DiskFailed || d.State == DiskDisabled }

// DiskMove says how far the objects of a disk that is leaving are moved.
type DiskMove struct {
	Total  int64  `json:"total"` // objects to be moved
	Moved  int64  `json:"moved"`
	Bytes  int64  `json:"bytes"` // of those moved
	Failed int64  `json:"failed,omitempty"`
	Detail string `json:"detail,omitempty"` // why the move stopped, or of its last failure
}

// DiskList is GET /v1/cluster/nodes/{id}/disks.
type DiskList struct {
	Disks []Disk `json:"disks"`
}

// NewDisk is POST /v1/cluster/nodes/{id}/disks: a directory of the target's machine, empty or one of the target's
// earlier disks.
type NewDisk struct {
	Path string `json:"path"`
	ID   string `json:"id,omitempty"` // "": the directory's name
}

// DiskChange is PATCH /v1/cluster/nodes/{id}/disks/{disk}.
type DiskChange struct {
	State string `json:"state"` // DiskDisabled, or StateOK to use it (again)
	// Anew begins a disk that is empty, as it was replaced or wiped: what only it had is given up.
	Anew bool `json:"anew,omitempty"`
}

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
