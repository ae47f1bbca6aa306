// Package copies is how targets give each other copies of objects: the documents and headers that travel, and a client.
//
// All requests carry the version of the cluster map that the sender goes by. A node that goes by a newer one takes no
// copies from it (api.CodeStaleMap), and one that goes by an older one waits for the newer, and answers for nothing as
// a primary until it has it. So an answer is also the promise that nobody decides by an older map any more.
package copies

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/shardstream/shardstream/core/archive"
	"github.com/shardstream/shardstream/core/store"
)

// Header carries all there is to know of a copy beside its body, HeaderNode who sends it.
const (
	Header     = "X-Shardstream-Copy"
	HeaderNode = "X-Shardstream-Node"
)

// MaxNames bounds the names of one request.
const MaxNames = 4096

// SmallBody is the size up to which a copy is made in one request, and not staged first.
const SmallBody = 1 << 20

// Paths between targets.
const (
	PathHave    = "/v1/internal/copies/have"
	PathCommit  = "/v1/internal/copies/commit"
	PathDiscard = "/v1/internal/copies/discard"
	PathBury    = "/v1/internal/copies/bury"
	PathObject  = "/v1/internal/copies/objects/" // bucket and key follow
)

// Path is that of a copy.
func Path(bucket, key string) string {
	segments := strings.Split(key, "/")
	for i, s := range segments {
		segments[i] = url.PathEscape(s)
	}
	return PathObject + url.PathEscape(bucket) + "/" + strings.Join(segments, "/")
}

// State is what a target knows of an object: the version that it has, or the deletion that it remembers.
type State struct {
	Version uint64     `json:"version,omitempty"` // 0: it knows nothing
	Kind    store.Kind `json:"kind,omitempty"`
	Size    int64      `json:"size,omitempty"` // of the object
	XXH3    uint64     `json:"xxh3,omitempty"` // of the object
	Data    int        `json:"data,omitempty"` // slices that the object can be made from; 0: it is in whole copies
	// Origin is the tag that the object has at its origin; nil: it is in the cluster alone.
	Origin *string `json:"origin,omitempty"`
	// Unknown: it can't tell, as a disk has failed.
	Unknown bool `json:"unknown,omitempty"`
}

// Exists says that there is an object, and not a deletion or nothing.
func (s State) Exists() bool { return s.Version != 0 && s.Kind != store.Tombstone }

// Elsewhere says that the object's bytes are not in its copies alone: a copy that is lost can be made again.
func (s State) Elsewhere() bool { return s.Data > 0 || s.Origin != nil }

// ETag is the object's entity tag.
func (s State) ETag() string {
	i := store.Info{Version: s.Version, XXH3: s.XXH3}
	if s.Origin != nil {
		i.Meta = map[string]string{store.OriginTag: *s.Origin}
	}
	return i.ETag()
}

// StateOf is what is known by a copy.
func StateOf(i store.Info) State {
	s := State{Version: i.Version, Kind: i.Kind, Size: i.Size, XXH3: i.XXH3, Data: i.Data}
	if tag, ok := i.Origin(); ok {
		s.Origin = &tag
	}
	return s
}

// HaveRequest asks what a target has of objects.
type HaveRequest struct {
	Bucket string   `json:"bucket"`
	Names  []string `json:"names"`
	// Settle: wait for writes of these names that are under way there.
	Settle bool `json:"settle,omitempty"`
}

// HaveAnswer has a state for each name, in their order.
type HaveAnswer struct {
	States []State `json:"states"`
}

// Staged is what a target has staged.
type Staged struct {
	Size  int64  `json:"size"`
	XXH3  uint64 `json:"xxh3"`
	CRC32 uint32 `json:"crc32"`
}

// Commit makes a staged body a copy of that version; for PathDiscard only Stage matters.
type Commit struct {
	Stage   string    `json:"stage"`
	Bucket  string    `json:"bucket"`
	Name    string    `json:"name"`
	Version uint64    `json:"version"`
	Created time.Time `json:"created"`
}

// Bury deletes an object by a write of that version.
type Bury struct {
	Bucket  string `json:"bucket"`
	Name    string `json:"name"`
	Version uint64 `json:"version"`
}

// description is a store.Info as it travels. What users chose are bytes: it may be no UTF-8.
type description struct {
	Version     uint64            `json:"v,omitempty"`
	Size        int64             `json:"s,omitempty"`
	XXH3        uint64            `json:"x,omitempty"`
	CRC32       uint32            `json:"c,omitempty"`
	Created     int64             `json:"t,omitempty"` // nanoseconds since 1970
	ContentType []byte            `json:"ct,omitempty"`
	Meta        map[string][]byte `json:"meta,omitempty"`
	Archive     string            `json:"a,omitempty"`
	Members     int64             `json:"m,omitempty"`
	Samples     int64             `json:"n,omitempty"`
	MaxSample   int64             `json:"ms,omitempty"`
	Kind        uint8             `json:"k,omitempty"`
	Data        int               `json:"ed,omitempty"`
	Parity      int               `json:"ep,omitempty"`
	Slice       int               `json:"es,omitempty"`
}

// Describe is the value of Header for a copy.
func Describe(i store.Info) string {
	d := description{
		Version: i.Version, Size: i.Size, XXH3: i.XXH3, CRC32: i.CRC32, ContentType: []byte(i.ContentType),
		Archive: string(i.Archive), Members: i.Members, Samples: i.Samples, MaxSample: i.MaxSample,
		Kind: uint8(i.Kind), Data: i.Data, Parity: i.Parity, Slice: i.Slice,
	}
	if !i.Created.IsZero() {
		d.Created = i.Created.UnixNano()
	}
	for name, value := range i.Meta {
		if d.Meta == nil {
			d.Meta = make(map[string][]byte, len(i.Meta))
		}
		d.Meta[name] = []byte(value)
	}
	document, err := json.Marshal(d)
	if err != nil {
		panic(err) // plain numbers and bytes
	}
	return base64.RawURLEncoding.EncodeToString(document)
}

// Parse reads the value of Header. Bucket and name are the path's.
func Parse(value, bucket, name string) (store.Info, error) {
	document, err := base64.RawURLEncoding.DecodeString(value)
	var d description
	if err == nil {
		err = json.Unmarshal(document, &d)
	}
	if err != nil {
		return store.Info{}, fmt.Errorf("the description of the copy does not parse: %w", err)
	}
	i := store.Info{
		Bucket: bucket, Name: name, Version: d.Version, Size: d.Size, XXH3: d.XXH3, CRC32: d.CRC32,
		ContentType: string(d.ContentType), Archive: archive.Format(d.Archive),
		Members: d.Members, Samples: d.Samples, MaxSample: d.MaxSample,
		Kind: store.Kind(d.Kind), Data: d.Data, Parity: d.Parity, Slice: d.Slice,
	}
	if d.Created != 0 {
		i.Created = time.Unix(0, d.Created).UTC()
	}
	for name, value := range d.Meta {
		if i.Meta == nil {
			i.Meta = make(map[string]string, len(d.Meta))
		}
		i.Meta[name] = string(value)
	}
	return i, nil
}
