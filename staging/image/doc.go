// Package image learns what container images need to run.
//
// [Memory] is a staging.ImageFetcher that knows the images it was given; one that asks
// registries is not here yet.
package image
