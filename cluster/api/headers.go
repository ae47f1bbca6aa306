package api

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
