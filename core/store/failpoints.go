package store

import "github.com/shardstream/shardstream/core/store/failpoint"

// The steps after each of which a crash leaves another state behind.
var (
	atCreated    = failpoint.New("store/write/created")     // an empty temporary file
	atPayload    = failpoint.New("store/write/payload")     // the body is in it
	atStaged     = failpoint.New("store/stage/synced")      // and on disk
	atTrailer    = failpoint.New("store/finish/trailer")    // the file is complete
	atFinished   = failpoint.New("store/finish/synced")     // and on disk
	atRenamed    = failpoint.New("store/publish/renamed")   // it has its name
	atPublished  = failpoint.New("store/publish/synced")    // on disk, too
	atRecorded   = failpoint.New("store/install/recorded")  // the index names it
	atDescribed  = failpoint.New("store/describe/recorded") // the index names many stubs
	atReplaced   = failpoint.New("store/replace/dropped")   // a copy on another disk is no more in its index
	atUnlinked   = failpoint.New("store/unlink/removed")    // a data file that no index names is gone
	atBuried     = failpoint.New("store/bury/recorded")     // the index has a tombstone
	atRemoved    = failpoint.New("store/remove/dropped")    // a copy is no more in the index of its disk
	atDropped    = failpoint.New("store/drop/dropped")      // many are not
	atQuarantine = failpoint.New("store/quarantine/moved")  // a damaged file is put aside
	atCopied     = failpoint.New("store/move/copied")       // a data file is on another disk as well
	atMoved      = failpoint.New("store/move/recorded")     // whose index names it
	atLeft       = failpoint.New("store/move/dropped")      // and the index of its old disk does not
	atRebuilt    = failpoint.New("store/rebuild/record")    // an index that is being made anew has one more copy
	atReady      = failpoint.New("store/rebuild/ready")     // it has all
	atSettled    = failpoint.New("store/reconcile/dropped") // the older of two copies is no more in its index
	atSwept      = failpoint.New("store/sweep/removed")     // debris is gone
)
