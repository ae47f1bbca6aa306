// Package api is the cluster's public REST contract in Go: the JSON documents, the error
// codes, the header names, and a client for them. It holds no server code; the loader and the
// command line import this package and nothing else of the cluster.
package api

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Header names that carry object properties beside a body.
const (
	// HeaderChecksum carries checksums of the whole object, comma separated:
	// "xxh3=<16 hex>,crc32=<8 hex>". A PUT may send either; an answer has both.
	HeaderChecksum = "X-Shardstream-Checksum"
	// HeaderVersion is the object's version, a decimal uint64.
	HeaderVersion = "X-Shardstream-Version"
	// HeaderBodyChecksum is "xxh3=<16 hex>" of the body that it comes with, where that is a part of an
	// object (a range, a member) small enough to be checked before it is sent. Of a transformed body it
	// is "xxh3=<16 hex>,crc32=<8 hex>", and a trailer where the body's size was not known beforehand.
	HeaderBodyChecksum = "X-Shardstream-Body-Checksum"
	// HeaderCache says for GET ?cache=true whether the output was kept already: "hit" or "miss".
	HeaderCache = "X-Shardstream-Cache"
	// HeaderError repeats the error document's code, for HEAD, whose answers have no body.
	HeaderError = "X-Shardstream-Error"
	// HeaderErrorMessage has the document's message for HEAD, percent-encoded; see Error.HeaderMessage.
	HeaderErrorMessage = "X-Shardstream-Error-Message"
	// HeaderMap is the version of the cluster map that the answering node goes by.
	HeaderMap = "X-Shardstream-Map"
	// HeaderDegraded says of a write how many of its copies or slices were made, of how many: "1/2".
	HeaderDegraded = "X-Shardstream-Degraded"
	// HeaderSamples is the number of samples of an archive.
	HeaderSamples = "X-Shardstream-Samples"
	// HeaderMembers and HeaderMaxSample describe an archive further; see Object.
	HeaderMembers   = "X-Shardstream-Members"
	HeaderMaxSample = "X-Shardstream-Max-Sample"
	// HeaderArchive, on a PUT, is "none" to store an archive as opaque bytes, unindexed. An answer
	// has the format of an indexed archive.
	HeaderArchive = "X-Shardstream-Archive"
	// HeaderVia has the buckets that a request came through, comma separated, each as CLUSTER/BUCKET: those in front of
	// other clusters ask on in its name, and one that is named is not asked again.
	HeaderVia = "X-Shardstream-Via"
	// HeaderRequestID follows a request across nodes.
	HeaderRequestID = "X-Request-Id"
	// HeaderMetaPrefix begins the names of user metadata headers.
	HeaderMetaPrefix = "X-Shardstream-Meta-"
	// StreamProtocol is the value of the Upgrade header that opens a sample stream.
	StreamProtocol = "shardstream/1"
)

// Error codes of the JSON error document. A code is stable; a message is for people.
const (
	CodeBadRequest   = "bad_request"        // 400
	CodeBadName      = "bad_name"           // 400
	CodeBadArchive   = "bad_archive"        // 400
	CodeBadChecksum  = "bad_checksum"       // 400
	CodeIncomplete   = "incomplete_body"    // 400
	CodeETLFailed    = "etl_failed"         // 422: user code raised
	CodeTooManyErrs  = "too_many_errors"    // of a job or a stream: more than max_errors allows
	CodeDecodeFailed = "decode_failed"      // of a sample: a field is not what its decoder takes
	CodeNotFound     = "not_found"          // 404: object, member or node
	CodeNoBucket     = "no_such_bucket"     // 404
	CodeNoETL        = "no_such_etl"        // 404
	CodeNoJob        = "no_such_job"        // 404
	CodeNoSnapshot   = "no_such_snapshot"   // 404
	CodeNoMatch      = "no_match"           // 404: a source that matches nothing
	CodeExists       = "already_exists"     // 409
	CodeNotEmpty     = "bucket_not_empty"   // 409
	CodeChanged      = "changed"            // 409: overwritten since the snapshot
	CodeMissingPages = "missing_pages"      // 409: of a snapshot, and no peer has them
	CodeStaleMap     = "stale_map"          // 409: between nodes: the sender goes by an older map than this node knows
	CodeSuperseded   = "superseded"         // 409: between nodes: what is there is as new, or newer
	CodeNotDrained   = "not_drained"        // 409: a target that is to be removed may hold objects
	CodeRefused      = "refused"            // 409: the cluster could not go on without it
	CodePrecondition = "precondition"       // 412
	CodeRange        = "range"              // 416
	CodeBusy         = "busy"               // 429
	CodeCorrupt      = "corrupt"            // 500: names object, block and disk
	CodeInternal     = "internal"           // 500
	CodeUnavailable  = "unavailable"        // 503
	CodeDescribing   = "describing"         // 503: a stream's shards are being described at their backend; ask again
	CodeTooFew       = "too_few_targets"    // 503: fewer are up than the bucket's redundancy takes
	CodeNoSpace      = "no_space"           // 507
	CodeReadOnly     = "read_only"          // 405: of a bucket whose backend is not written to
	CodeNoSecret     = "no_such_secret"     // 404
	CodeBackend      = "backend_failed"     // 502: names the backend and what it said
	CodeDenied       = "backend_denied"     // 502: the backend refuses the credentials
	CodeLoop         = "backend_loop"       // 508: buckets of several clusters are backends of each other, in a circle
	CodeBackendBusy  = "backend_busy"       // 503: it asks to be left alone, or does not answer; with Retry-After
	CodeMethod       = "method_not_allowed" // 405
	CodeNotModified  = "not_modified"       // 304: If-None-Match names what is there
)

// Error is the error document of every route: {"error": {"code": ..., "message": ...}}.
type Error struct {
	Status  int    `json:"-"`
	Code    string `json:"code"`
	Message string `json:"message"`
	// Cause is what a request ended with that had no answer; nil for an answer.
	Cause error `json:"-"`
}

func (e *Error) Error() string { return fmt.Sprintf("%s (%s)", e.Message, e.Code) }

// Errorf makes an Error.
func Errorf(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// ErrorBody wraps an Error as it travels.
type ErrorBody struct {
	Error *Error `json:"error"`
}

// Roles and states of nodes, states of disks and of the cluster.
const (
	RoleGateway = "gateway"
	RoleTarget  = "target"

	StateOK       = "ok"
	StateDegraded = "degraded"
	StateDown     = "down"
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

// Node is a member of the cluster.
type Node struct {
	ID     string  `json:"id"`
	Role   string  `json:"role"`
	State  string  `json:"state"` // StateOK while its lease lives, else StateDown
	Addr   string  `json:"addr"`  // host:port
	PID    int     `json:"pid"`
	Weight float64 `json:"weight,omitempty"` // placement weight of a target; 1 unless set
	Disks  []Disk  `json:"disks,omitzero"`

	// Away, Draining and Bare are the map's, and so the same for all who have its version. Away: the target's lease was
	// over; mirrored objects are kept on the others meanwhile. Draining: nothing new is placed on it, and what it
	// has is moved. Drained: all of that is done, and it may be removed. Bare: it came back with less than it had.
	Away     bool `json:"away,omitempty"`
	Draining bool `json:"draining,omitempty"`
	Drained  bool `json:"drained,omitempty"`
	Bare     bool `json:"bare,omitempty"`
}

// Map is the versioned cluster map: all that placement needs. Membership is durable: a target that
// is down stays in the map, as its objects stay on its disks.
type Map struct {
	Version int64  `json:"version"`
	Cluster string `json:"cluster"` // cluster id
	Nodes   []Node `json:"nodes"`   // sorted by id
	Since   int64  `json:"since"`   // the version from which on the present set of targets holds
	// Former are earlier sets of targets, newest first: those since all data was last known to be where it belongs.
	// Objects may still be where they put them.
	Former []Epoch `json:"former,omitempty"`
}

// Epoch is the set of targets that held from one version of the map on.
type Epoch struct {
	Version int64    `json:"version"`
	Targets []Member `json:"targets"`
}

// Member is a target in an Epoch.
type Member struct {
	ID       string  `json:"id"`
	Weight   float64 `json:"weight,omitempty"`
	Away     bool    `json:"away,omitempty"`
	Draining bool    `json:"draining,omitempty"`
}

// States of the background movement of objects.
const (
	RebalanceIdle    = "idle"
	RebalanceRunning = "running"
	RebalanceWaiting = "waiting" // for targets that are down, or for the time after which a target is given up
	RebalanceStopped = "stopped" // by hand
)

// Rebalance says what background movement of objects is under way: after targets joined, left or died, each object is
// brought to where the map puts it, in as many copies as its bucket has.
type Rebalance struct {
	State   string   `json:"state"`             // idle, running, waiting or stopped
	Map     int64    `json:"map,omitempty"`     // version that data is moved to
	Reasons []string `json:"reasons,omitempty"` // why it waits

	Objects int64   `json:"objects,omitempty"` // looked at
	Total   int64   `json:"total,omitempty"`   // to be looked at
	Moved   int64   `json:"moved,omitempty"`   // copies made
	Bytes   int64   `json:"bytes,omitempty"`   // of these
	Deleted int64   `json:"deleted,omitempty"` // copies removed where they no longer belong
	Failed  int64   `json:"failed,omitempty"`  // copies that could not be made yet
	Rate    float64 `json:"rate,omitempty"`    // bytes a second
	ETAS    float64 `json:"eta_s,omitempty"`   // seconds that are left, as far as can be told

	Targets []RebalanceTarget `json:"targets,omitempty"`
}

// RebalanceTarget is one target's part of a Rebalance.
type RebalanceTarget struct {
	ID      string `json:"id"`
	State   string `json:"state"`
	Objects int64  `json:"objects"`
	Total   int64  `json:"total"`
	Moved   int64  `json:"moved"`
	Bytes   int64  `json:"bytes"`
	Deleted int64  `json:"deleted"`
	Failed  int64  `json:"failed"`
	Detail  string `json:"detail,omitempty"` // of the last failure
}

// Status is GET /v1/cluster, and `shardstream status --json`.
type Status struct {
	Endpoint  string    `json:"endpoint"`
	State     string    `json:"state"` // ok, degraded, down
	Cluster   string    `json:"cluster"`
	Version   string    `json:"version"` // of the software
	Map       int64     `json:"map"`     // map version
	Etcd      []string  `json:"etcd"`    // client URLs of the control plane
	Nodes     []Node    `json:"nodes"`
	Rebalance Rebalance `json:"rebalance"`
}

// Health is GET /v1/health of any node.
type Health struct {
	ID    string `json:"id"`
	Role  string `json:"role"`
	State string `json:"state"`
	PID   int    `json:"pid"`
	Map   int64  `json:"map"` // version of the map that the node goes by
	Disks []Disk `json:"disks,omitempty"`
}

// NodeList is GET /v1/cluster/nodes.
type NodeList struct {
	Nodes []Node `json:"nodes"`
}

// TokenRequest is POST /v1/cluster/tokens.
type TokenRequest struct {
	ValidS int64 `json:"valid_s,omitempty"` // seconds; 0: an hour
}

// JoinToken lets one new node join the cluster, once.
type JoinToken struct {
	Token   string    `json:"token"`
	Expires time.Time `json:"expires"`
}

// BucketList is GET /v1/buckets, sorted by name.
type BucketList struct {
	Buckets []Bucket `json:"buckets"`
}

// Bucket is a bucket and its properties.
type Bucket struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	// Mirror is the number of copies of each object, on targets of their own. With EC it is what small objects have.
	Mirror int `json:"mirror"`
	// EC keeps objects as slices: Data of them, with Parity more, any of which may be lost. nil: whole copies.
	EC *EC `json:"ec,omitempty"`
	// Degraded lets writes be acknowledged where fewer targets are up than there are to be copies or slices, if at
	// least one is; rebalance makes up for it later. Otherwise they are refused.
	Degraded bool `json:"degraded,omitempty"`
	// Was are the numbers of copies that objects had under earlier settings, until all have as many as they should.
	Was []int `json:"was,omitempty"`
	// Backend is where the objects come from; nil: the bucket's objects are the cluster's own.
	Backend *Backend `json:"backend,omitempty"`
}

// EC is how objects of a bucket are erasure-coded.
type EC struct {
	Data   int `json:"data"`
	Parity int `json:"parity"`
}

// Bounds of redundancy.
const (
	MaxMirror = 16
	MaxSlices = 32
	// SmallObject is the size up to which objects of an erasure-coded bucket are mirrored, by Parity + 1 copies.
	SmallObject = 128 << 10
)

// Copies is the number of targets that know each object of the bucket: by a whole copy of it, or of an
// erasure-coded object by its description.
func (b *Bucket) Copies() int {
	if b.EC != nil {
		return b.EC.Parity + 1
	}
	return max(b.Mirror, 1)
}

// Width is the number of targets that a write needs.
func (b *Bucket) Width() int {
	if b.EC != nil {
		return b.EC.Data + b.EC.Parity
	}
	return b.Copies()
}

// BucketChange is PATCH /v1/buckets/{bucket}: what is nil stays.
type BucketChange struct {
	Mirror   *int  `json:"mirror,omitempty"`
	EC       *EC   `json:"ec,omitempty"` // Data 0: none any more
	Degraded *bool `json:"degraded,omitempty"`
	// Backend is given with all its properties. It is set when the bucket is created; later its URL stays.
	Backend *Backend `json:"backend,omitempty"`
}

// Object is an object's entry in a listing and the answer to a PUT.
type Object struct {
	Bucket      string            `json:"bucket"`
	Name        string            `json:"name"`
	Size        int64             `json:"size"`
	Version     uint64            `json:"version"`
	XXH3        string            `json:"xxh3"`
	CRC32       string            `json:"crc32"`
	ETag        string            `json:"etag"`
	Created     time.Time         `json:"created"`
	ContentType string            `json:"content_type,omitempty"`
	Archive     string            `json:"archive,omitempty"` // "tar" where members are indexed
	Members     int64             `json:"members,omitempty"`
	Samples     int64             `json:"samples,omitempty"`
	MaxSample   int64             `json:"max_sample,omitempty"` // bytes of its largest sample
	Meta        map[string]string `json:"meta,omitempty"`
	// Cached says, in a bucket with a backend, whether the bytes are in the cluster.
	Cached *bool `json:"cached,omitempty"`
}

// ObjectList is one page of a listing, sorted by name.
type ObjectList struct {
	Objects  []Object `json:"objects"`
	Prefixes []string `json:"prefixes,omitempty"` // with a delimiter
	Next     string   `json:"next,omitempty"`     // pass as start_after; empty on the last page
}

// Names asks a target, on behalf of a gateway, which of the objects of a bucket it has; the answer is an
// ObjectList.
type Names struct {
	Names []string `json:"names"`
}

// Location is the answer to GET ?op=locate and `object locate --json`.
type Location struct {
	Object  string `json:"object"` // ss://bucket/key
	Version uint64 `json:"version"`
	URL     string `json:"url"` // of the owner, whether or not the object exists (version 0)
	Copies  []Copy `json:"copies"`
}

// Copy is one stored copy of an object.
type Copy struct {
	Node  string   `json:"node"`
	Disk  string   `json:"disk"`
	Kind  string   `json:"kind"`            // KindWhole, KindSlice or KindStub
	Slice int      `json:"slice,omitempty"` // which one, of a slice
	Files []string `json:"files"`
	// Version is the copy's; one that is lower than the object's is on its way out.
	Version uint64 `json:"version,omitempty"`
}

// Kinds of copies.
const (
	KindWhole = "whole"
	KindSlice = "slice" // of an erasure-coded object
	KindStub  = "stub"  // all but the bytes, which are in slices or at a backend
	KindCache = "cache" // a whole copy that may be dropped, as slices or a backend have the bytes, too
)

// FsckReport is what fsck found; all three lists are empty on a sound cluster.
type FsckReport struct {
	Objects int64     `json:"objects"`
	Corrupt []Finding `json:"corrupt"`
	Missing []Finding `json:"missing"`
	Stray   []Finding `json:"stray"`
}

// Finding is one fault that fsck found.
type Finding struct {
	Node   string `json:"node"`
	Disk   string `json:"disk"`
	Object string `json:"object,omitempty"` // ss://bucket/key
	File   string `json:"file,omitempty"`
	Block  int64  `json:"block,omitempty"`
	Detail string `json:"detail"`
}

// ETL levels.
const (
	LevelSample = "sample" // dict -> dict, one sample at a time
	LevelBatch  = "batch"  // list of dicts -> dict of columns
	LevelObject = "object" // bytes -> bytes
)

// ETL is a deployed transformation. What is left out gets a default, by kind; package etl documents the fields.
type ETL struct {
	Name    string    `json:"name"`
	Kind    string    `json:"kind"`    // "function" by default, "container", "server", "command"
	Level   string    `json:"level"`   // of functions LevelSample by default, else LevelObject
	Version int64     `json:"version"` // rises with each PUT
	Created time.Time `json:"created"`

	Source       string   `json:"source,omitempty"` // Python source
	Entry        string   `json:"entry,omitempty"`  // function name, "transform" by default
	Pickle       []byte   `json:"pickle,omitempty"` // base64 of a cloudpickle, in place of source
	Requirements []string `json:"requirements,omitempty"`
	Python       string   `json:"python,omitempty"` // version, as in "3.11"

	Image     string            `json:"image,omitempty"`
	Command   []string          `json:"command,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Port      int               `json:"port,omitempty"`
	URL       string            `json:"url,omitempty"`
	Transport string            `json:"transport,omitempty"` // push, redirect, proxy, stdio
	Fields    []string          `json:"fields,omitempty"`

	Args      json.RawMessage `json:"args,omitempty"`       // defaults of the arguments that requests may give
	Workers   int             `json:"workers,omitempty"`    // per target; 0: one per CPU
	TimeoutS  float64         `json:"timeout_s,omitempty"`  // for one sample or object; default 30
	Memory    int64           `json:"memory,omitempty"`     // bytes of one worker or of a container; default 2 GiB
	CPUs      float64         `json:"cpus,omitempty"`       // of one worker or of a container; 0: no limit
	MaxOutput int64           `json:"max_output,omitempty"` // bytes of one answer; default 256 MiB
	Isolation string          `json:"isolation,omitempty"`  // the least that will do: strict, landlock, none
	Network   string          `json:"network,omitempty"`    // none by default, host, bridge

	// Status is how it goes on the targets. It is no part of the definition: a PUT leaves it out, or is answered as if.
	Status *ETLStatus `json:"status,omitempty"`
}

// ETLList is GET /v1/etls, sorted by name.
type ETLList struct {
	ETLs []ETL `json:"etls"`
}

// What a stream's sources are.
const (
	SamplesShards  = "shards"  // archives of samples
	SamplesObjects = "objects" // objects that are one sample each
)

// StreamRequest describes a stream: POST /v1/streams.
type StreamRequest struct {
	// Sources are ss:// addresses with braces and globs; behind "=" an address without, behind "@" that of a
	// manifest, an object that lists objects.
	Sources   []string `json:"sources"`
	Samples   string   `json:"samples,omitempty"` // what the sources are: SamplesShards where empty
	BatchSize int      `json:"batch_size"`
	// Shuffle is global, window, shards or none; "": global, or window where a source has a backend.
	Shuffle string `json:"shuffle"`
	// Slices and Window are those of a window; 0: the defaults, or what fits the cache where the shuffle is chosen.
	Slices int    `json:"slices,omitempty"`
	Window int    `json:"window,omitempty"`
	Seed   uint64 `json:"seed"`
	ETL    string `json:"etl,omitempty"` // transformations to go through in order, separated by commas
	// ETLArgs are their arguments: a JSON object, of several transformations a list with one, or null, for each.
	ETLArgs json.RawMessage `json:"etl_args,omitempty"`
	Fields  []string        `json:"fields,omitempty"`
	// Decode names for fields how the targets decode them: a decoder ("rgb8", "int"), or for JSON a map
	// from members to decoders, nested as the document is.
	Decode    map[string]any `json:"decode,omitempty"`
	WorldSize int            `json:"world_size"`
	Rank      int            `json:"rank"`
	DropLast  bool           `json:"drop_last"`
	// Epoch is which one begins, and Ahead says that it is read now, from its beginning. Both are hints: of shards at a backend,
	// what the epoch needs first is described first, and fetched while others are described.
	Epoch uint64 `json:"epoch,omitempty"`
	Ahead bool   `json:"ahead,omitempty"`
	// Mixture takes the place of sources, shuffle and etl.
	Mixture *Mixture `json:"mixture,omitempty"`
}

// Mixture describes an epoch over several sources. All of them have a weight, or none has; where no
// number is given, each source gives all its samples once.
type Mixture struct {
	Sources    []MixtureSource `json:"sources"`
	Interleave string          `json:"interleave,omitempty"` // random (the default), stratified, per_source
	// Samples of an epoch, shared out by weight; 0 is as many as all sources have.
	Samples int64 `json:"samples,omitempty"`
}

// MixtureSource is one source of a mixture, with at most one of weight, repeat and samples.
type MixtureSource struct {
	Sources []string `json:"sources"`           // ss:// addresses, braces and globs
	Weight  *float64 `json:"weight,omitempty"`  // its share of the epoch, relative to the other weights
	Repeat  *float64 `json:"repeat,omitempty"`  // times that its samples come in an epoch
	Samples *int64   `json:"samples,omitempty"` // that it gives an epoch
	// Shuffle, Slices and Window are as in StreamRequest. Under interleave random, "" is global.
	Shuffle string `json:"shuffle,omitempty"`
	Slices  int    `json:"slices,omitempty"`
	Window  int    `json:"window,omitempty"`
	// ETL and ETLArgs are what its samples go through, as in StreamRequest.
	ETL     string          `json:"etl,omitempty"`
	ETLArgs json.RawMessage `json:"etl_args,omitempty"`
}

// StreamInfo is the answer to POST /v1/streams.
type StreamInfo struct {
	Snapshot  string `json:"snapshot"` // id: hash of shards, versions and counts
	Samples   int64  `json:"samples"`  // of an epoch
	Shards    int64  `json:"shards"`
	Bytes     int64  `json:"bytes"`
	Batches   int64  `json:"batches"`    // of this rank's epoch
	MaxSample int64  `json:"max_sample"` // bytes
	// Shuffle is the one that was asked for or chosen; Slices and Window are those of a window that is not the default.
	Shuffle string `json:"shuffle,omitempty"`
	Slices  int    `json:"slices,omitempty"`
	Window  int    `json:"window,omitempty"`
	// ETLVersion is that of the deployed transformation, of several the latest, 0 without one.
	ETLVersion int64 `json:"etl_version,omitempty"`
	Map        Map   `json:"map"`
	// Mixture is what a mixture's description came to.
	Mixture *MixtureInfo `json:"mixture,omitempty"`
}

// MixtureInfo is a mixture in exact numbers: all that the order of its epochs depends on, apart from
// snapshot, seed and epoch.
type MixtureInfo struct {
	Interleave string        `json:"interleave"`
	Unit       int64         `json:"unit,omitempty"` // positions in a row that one part gives; per_source only
	Parts      []MixturePart `json:"parts"`
}

// MixturePart is a source of a mixture: its shards follow those of the parts before it in the snapshot.
type MixturePart struct {
	Shards  int64  `json:"shards"`
	Samples int64  `json:"samples"` // that it has
	Draws   int64  `json:"draws"`   // samples that it gives an epoch
	Shuffle string `json:"shuffle"`
	Slices  int    `json:"slices,omitempty"` // as in StreamInfo
	Window  int    `json:"window,omitempty"`
	ETL     string `json:"etl,omitempty"`
	// ETLArgs are the arguments of the part's transformation.
	ETLArgs json.RawMessage `json:"etl_args,omitempty"`
	// ETLVersion is that of the part's transformation, 0 without one.
	ETLVersion int64 `json:"etl_version,omitempty"`
}

// maxHeaderMessage bounds the bytes of a message that a header has: it is up to three times as long there.
const maxHeaderMessage = 1000

// HeaderMessage is the message as HeaderErrorMessage has it.
func (e *Error) HeaderMessage() string {
	return url.PathEscape(strings.ToValidUTF8(e.Message[:min(len(e.Message), maxHeaderMessage)], ""))
}

// MarshalError renders an error document.
func MarshalError(e *Error) []byte {
	b, err := json.Marshal(ErrorBody{Error: e})
	if err != nil {
		return []byte(`{"error":{"code":"internal","message":"unprintable error"}}`)
	}
	return b
}
