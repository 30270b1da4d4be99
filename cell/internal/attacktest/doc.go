// Package attacktest attacks a container from inside, for the tests of docs/isolation.md.
package attacktest
