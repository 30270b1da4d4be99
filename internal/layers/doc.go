// Package layers unpacks the layers of an image into a root filesystem, without root, and keeps
// such filesystems by what is in them.
//
// Whoever made the image is not trusted: all writing goes through [os.Root], so that nothing
// outside is touched; what a layer may ask for is limited; and its digests are checked before
// anybody sees what was unpacked.
package layers
