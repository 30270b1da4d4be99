// Package router sends HTTP requests to the instances that serve a host and path.
//
// A [Table] says which [Backend]s serve which [Route]; it never changes, and
// [Router.SetTable] swaps it whole. A [Router] is an http.Handler: it looks the route up,
// takes the backends in turn, tries another one where nothing reached the app, and answers
// with Cloud Foundry's error responses where none can. Package router/routertest is the
// conformance suite.
package router
