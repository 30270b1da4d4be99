// Package resourcematch spares uploads: it finds out which of an app's files are here
// already, so that only the others travel and are stored.
//
// [Scan] reads an app, a directory or an archive, and gives each file a [Fingerprint].
// [Cache.Match] tells which of them the platform has, and pins those. [Cache.Assemble] then
// makes a package of what is new, taken from the scanned files or from a stream that
// [Files.Bits] made, and of references to what is known: a package is a [Manifest], not an
// archive, so its cost follows what changed. [Cache.Open] streams a package as an archive.
//
// # What is left out
//
// A .cfignore at the app's root has the syntax of .gitignore: comments, "!", "**", "?",
// brackets, a leading or inner slash that ties a pattern to the root, a final slash for
// directories only, and backslash for what follows it. The built-in rules of Cloud Foundry's
// CLI come before it: .cfignore, .DS_Store, .git, .gitignore, .hg, .svn, _darcs,
// manifest.yaml and manifest.yml, at any depth. The last rule that matches a path, or a
// directory above it, decides; unlike in git, "!" brings back a file out of an ignored
// directory, as it does in Cloud Foundry. Further .cfignore files have no meaning.
//
// # What is kept where
//
// The new files of an upload lie one after the other in a few blobs of kind "files". Those
// inside the limits (Config.MinSize < size < Config.MaxSize, mode at least 0600) are found
// there by their SHA-1 from then on. The manifest is a blob of kind "package"; it says of
// each file in which blob it lies, and where. So to store 20,000 files costs a few syncs and
// rows, and to match them is to look into an index in memory. A blob stays as long as some
// package needs one of its files; a package that needs little of one copies that instead.
//
// The SHA-256 of a package is that of its canonical listing, see [Manifest.Sum]: it depends on
// paths, modes and content alone, not on what was known or how it travelled.
package resourcematch
