// Package jobs holds what a job is, for the gateways that coordinate jobs and the targets that work on them: the
// specification as it was checked, names of outputs, the marks that outputs carry, and a job's state in etcd.
//
// A job is cut by targets: each works through those of the source's objects that lie on it, in the order of their
// names, and says how far it is. That (a name and counts for each target) is all there is to a job's progress; it is
// in etcd, so that whichever gateway comes next goes on from there. Work that was done beyond what was written down is
// found again by the marks on its outputs, and is not done twice.
//
// The package talks to nobody but etcd.
package jobs
