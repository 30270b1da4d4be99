// Package router sends HTTP requests to the instances that serve a host and path.
//
// A [Table] says which [Backend]s serve which [Route]; it never changes. [Table.With] makes the
// next one of it at the price of what changes, and [Router.SetTable] swaps it whole. A
// [Router] is an http.Handler: it looks the route up, chooses a backend by the route's
// [Options], tries another one where nothing reached the app, and answers with Cloud Foundry's
// error responses where none can. [NewServer] makes the server in front, with bounds for what
// clients may do. Package router/routertest is the conformance suite.
package router
