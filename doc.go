// Package dewpoint turns source code into running, self-healing apps inside a Go program.
//
// A [Platform] is composed of five parts, each an interface with a real implementation
// and one in memory:
//
//	           Push(fs.FS)
//	               │ resourcematch: which files are here already?
//	               ▼
//	blob.Store ◄── package ──► staging.BuildpackRunner      image ──► staging.ImageFetcher
//	    ▲                          │ what to run
//	    │                          ▼
//	    ├──── droplet ◄──── cell.Runtime (a task on a cell)
//	    │     + cache              ▲
//	    │                          │ instances
//	    └────────────────── lrp.Scheduler ──► router.Table ──► HTTP 200
//
// The zero [Config] works: everything is in memory. Replace the parts you own:
//
//   - Config.Blobs, a blob.Store, keeps packages, droplets and build caches: blob.Memory,
//     blob.Dir, or any object store through blob/cloudblob.
//   - Config.Runtime, a cell.Runtime, makes containers: cell.Memory or cell/process.
//   - Config.Buildpacks, a staging.BuildpackRunner, turns a package into a droplet:
//     staging/buildpack runs Cloud Foundry's buildpacks.
//   - Config.Images, a staging.ImageFetcher, learns what an image needs: staging/image.
//   - Config.Scheduler, a lrp.Scheduler, keeps instances running: package scheduler.
//
// Each package stands for one noun, and imports go down only: examples, the root, the
// scheduler and the drivers, lrp and staging, cell and resourcematch, and at the bottom
// blob, state, droplet, logs and router. Whoever needs only a droplet, in CI say, imports
// package staging and its drivers and not this one (see examples/cistage).
//
// [New] starts nothing; [Platform.Run] works until its context ends and returns when all
// it started has ended. State is in one database, package state, and each change is durable
// before it is seen, if Config.Journal is.
package dewpoint
