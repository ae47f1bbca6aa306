package jobs

import (
	"maps"
	"net/url"
	"strconv"
	"strings"

	"github.com/zeebo/xxh3"

	"github.com/shardstream/shardstream/cluster/api"
	"github.com/shardstream/shardstream/core/store"
)

// Names of the properties that an output carries beside a user's own (X-Shardstream-Meta-Etl-Source, ...). They lie
// in the object's data file, so they last as long as it does.
const (
	markSource  = "etl-source"  // ss://bucket/key, escaped as in a URL
	markVersion = "etl-version" // ETag of the source, without quotes
	markETL     = "etl"         // name@version
	markArgs    = "etl-args"    // checksum of the arguments; absent where there are none
	markJob     = "etl-job"
)

// Mark says what an output was made of. Two outputs of equal marks, but for the job, have equal content, as far as
// the transformation is a function.
type Mark struct {
	Source  string // address, escaped
	Version string // ETag of the source
	ETL     string // name@version
	Args    string
	Job     string
}

// NewMark is the mark of an output of a job. args are as the transformation got them.
func NewMark(job, etl string, etlVersion int64, args []byte, source store.Info) Mark {
	m := Mark{
		Source:  escape(source.Bucket, source.Name),
		Version: strings.Trim(source.ETag(), `"`),
		ETL:     etl + "@" + strconv.FormatInt(etlVersion, 10),
		Job:     job,
	}
	if len(args) > 0 {
		m.Args = api.FormatXXH3(xxh3.Hash(args))
	}
	return m
}

// escape makes a header's value of an address: names may have any letter.
func escape(bucket, key string) string {
	return (&url.URL{Scheme: "ss", Host: bucket, Path: "/" + key}).String()
}

// ParseMark reads the mark of an object's properties; the zero Mark where it has none.
func ParseMark(meta map[string]string) Mark {
	return Mark{Source: meta[markSource], Version: meta[markVersion], ETL: meta[markETL], Args: meta[markArgs], Job: meta[markJob]}
}

// Meta is the mark as properties of an object.
func (m Mark) Meta() map[string]string {
	meta := map[string]string{markSource: m.Source, markVersion: m.Version, markETL: m.ETL, markArgs: m.Args, markJob: m.Job}
	maps.DeleteFunc(meta, func(_, value string) bool { return value == "" })
	return meta
}

// Same says whether two outputs were made of the same, in whatever job.
func (m Mark) Same(other Mark) bool {
	m.Job, other.Job = "", ""
	return m == other
}
