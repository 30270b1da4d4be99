// Package image learns what container images need to run.
//
// [Fetcher] is the staging.ImageFetcher that asks registries: it resolves a tag once, picks the platform, and reads the
// image's configuration, but none of its layers. [OnCell] runs the same as a task on a cell. [Memory] knows the images
// that it was given. docs/images.md tells the whole way of an image.
package image
