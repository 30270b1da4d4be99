// Package sim plays histories of faults against the real scheduling code: a scheduler.Core over
// a real state.DB, with simulated cells, clock and network, in one goroutine. A seed decides
// everything, so that a history which breaks a promise is replayed exactly.
//
//	go test ./internal/sim                                  1,000 seeds
//	go test ./internal/sim -sim.seed 42 -run TestSeeds -v   one, with its last events
//	go test ./internal/sim -sim.n 100000 -timeout 0         many
//
// What is promised stands in check.go.
package sim
