// Package catalog knows which blobs exist, who needs each, and what may go.
//
// A blob has a row before it has bytes. The row goes from writing to kept to condemned,
// and only a kept blob can be found or used:
//
//	Put, Reserve ──► writing ──Commit──► kept ──nobody needs it──► condemned ──bytes deleted──► no row
//	                    └──────Abandon, failure, end of the lease──────▲
//
// A blob is needed while an owner refers to it ([Catalog.Use], inside the owner's own
// Update, so that the reference and the owner's row are made together) or while a [Lease]
// that holds it lives. Whoever works with blobs takes a lease first, and what she puts or
// finds under it stays until she releases it. [Catalog.Sweep] condemns what nobody needs in
// one Update, deletes the bytes and then the row; so no sweep can take what a push has
// just been told of, and after a crash at any point the next sweep goes on.
//
// A key is never used twice. Bytes without a row are what a crash left behind; they go by
// age.
package catalog
