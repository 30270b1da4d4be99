// Package staging makes a droplet of a package, and metadata of an image name.
//
// [Stager] runs one staging from request to result. What differs between kinds of
// staging stands behind [BuildpackRunner] (Cloud Foundry v2 buildpacks: package
// staging/buildpack) and [ImageFetcher]; where it runs stands behind [TaskRunner]. A failed
// staging is an [*Error] that says which of Cloud Foundry's reasons it was.
package staging
