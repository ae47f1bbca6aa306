// Package transfer copies files between any two places that keep them: local folders, clusters, and what has a backend
// (S3, GCS, Azure, HDFS, a web server). It is the client's side, run by a person on a machine of their own: it reaches
// what that person reaches, by their credentials. Nodes of a cluster, which must not be led to addresses of other
// people's choice, open backends by another way, with a guard.
//
// A place is a Side; Opener makes sides of what a command line says. Copy and Sync go through the source's listing, copy
// several files at once, and report each. A file is whole under its name at the destination, or not there at all: its
// bytes are hashed on their way, and compared with every checksum that either side knows before the name is given.
package transfer
