// Package buildpack stages with Cloud Foundry's v2 buildpacks: folders with a bin/detect,
// bin/compile or bin/finalize, and bin/release.
//
// A [Runner] is the staging.BuildpackRunner over a [Catalogue], the ordered list of the
// buildpacks that there are. It plans the same work that Cloud Foundry gives a cell (the role
// "builder" of package lifecycle, with the flags and folders of the upstream
// buildpackapplifecycle) and reads its result.json.
//
// A buildpack is a folder of this machine, an archive (a file, a blob, a zip URL), or a git
// repository. Whatever it is, a cell gets it as an archive with a digest, so that cells
// share it between stagings.
package buildpack
