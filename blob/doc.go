// Package blob keeps immutable bytes by key.
//
// [Store] is the seam: five methods that any object store can offer. The package
// holds two implementations, [Memory] for tests and [Dir] for one machine, which is
// durable: when Put returns, a power cut takes nothing away. Object stores of the
// cloud providers are reached through blob/cloudblob. Package blob/blobtest is the
// conformance suite that every Store must pass.
package blob
