// Package droplet reads and writes what staging makes and a cell runs: a gzipped tar of an
// app with all it needs, laid out for /home/vcap.
//
// [Write] turns a directory into such an archive. The same tree gives the same bytes on
// every machine, so a droplet's digest says whether anything changed; and it is fast,
// because files are read ahead and blocks are compressed in parallel. Build caches are
// written by it too.
//
// [StagingInfo] is the small file in a droplet that tells how it was made and how it is
// started.
package droplet
