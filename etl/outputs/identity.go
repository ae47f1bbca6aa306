package outputs

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"slices"
)

// Identity says what an output was made of. Two outputs of one identity are taken for the same bytes.
type Identity struct {
	Bucket string `json:"bucket"`
	Name   string `json:"name"`
	Object string `json:"object"` // the ETag of the object's version
	Member string `json:"member,omitempty"`
	Chain  []Step `json:"chain"`
}

// Step is one transformation of a chain, as it was deployed.
type Step struct {
	ETL     string          `json:"etl"`
	Version int64           `json:"version"`
	Args    json.RawMessage `json:"args,omitempty"` // merged with the definition's, as json.Marshal writes them
}

// origin is the identity without what may be long and says nothing of whether an output is stale.
func (id Identity) origin() Identity {
	id.Chain = slices.Clone(id.Chain)
	for i := range id.Chain {
		id.Chain[i].Args = nil
	}
	return id
}

// Key is the hash of an identity.
type Key [sha256.Size]byte

func (k Key) String() string { return hex.EncodeToString(k[:]) }

// Key hashes the identity.
func (id Identity) Key() Key {
	h := sha256.New()
	text := func(s string) {
		var n [8]byte // every part behind its length, so that none can pass for another
		binary.LittleEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		h.Write([]byte(s))
	}
	for _, part := range []string{"shardstream output 1", id.Bucket, id.Name, id.Object, id.Member} {
		text(part)
	}
	for _, step := range id.Chain {
		var version [8]byte
		binary.LittleEndian.PutUint64(version[:], uint64(step.Version))
		text(step.ETL)
		text(string(version[:]))
		text(string(step.Args))
	}
	var k Key
	h.Sum(k[:0])
	return k
}

// ETag is the entity tag of the output.
func (id Identity) ETag() string {
	k := id.Key()
	return `"etl-` + hex.EncodeToString(k[:16]) + `"`
}
