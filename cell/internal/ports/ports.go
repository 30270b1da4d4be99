// Package ports finds TCP ports of this machine for containers that share its network, so
// that no two of them get the same one.
package ports

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
)

// The range lies below what Linux hands out for outgoing connections (32768 and up), so
// that a port does not go to some client between its choice and the program's listen.
const (
	first = 20000
	last  = 32767
)

// Pool hands out ports. The zero value is ready. All methods may be called by any number
// of goroutines.
type Pool struct {
	mu    sync.Mutex
	next  int
	taken map[int]io.Closer
}

// Take reserves n ports on which nobody listens. On Linux the reservation also holds
// against other Pools of the same network namespace, in whatever program.
func (p *Pool) Take(ctx context.Context, n int) ([]int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken == nil {
		p.taken = map[int]io.Closer{}
		p.next = first + rand.IntN(last-first+1)
	}
	var got []int
	for range last - first + 1 {
		if len(got) == n {
			return got, nil
		}
		if err := ctx.Err(); err != nil {
			p.release(got)
			return nil, err
		}
		port := p.next
		if p.next++; p.next > last {
			p.next = first
		}
		if p.take(ctx, port) {
			got = append(got, port)
		}
	}
	if len(got) == n {
		return got, nil
	}
	p.release(got)
	return nil, errors.New("no free port from " + strconv.Itoa(first) + " to " + strconv.Itoa(last) + "; end what listens there")
}

// Adopt takes ports that a container of an earlier program has, whoever listens there.
func (p *Pool) Adopt(ports []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken == nil {
		p.taken = map[int]io.Closer{}
		p.next = first + rand.IntN(last-first+1)
	}
	for _, port := range ports {
		if _, ok := p.taken[port]; !ok {
			p.taken[port], _ = reserve(port) // a nil reservation holds within this Pool
		}
	}
}

// Release gives ports back. Those that are not taken are passed over.
func (p *Pool) Release(ports []int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.release(ports)
}

func (p *Pool) release(ports []int) {
	for _, port := range ports {
		if c := p.taken[port]; c != nil {
			c.Close()
		}
		delete(p.taken, port)
	}
}

func (p *Pool) take(ctx context.Context, port int) bool {
	if _, ok := p.taken[port]; ok {
		return false
	}
	hold, ok := reserve(port)
	if !ok {
		return false
	}
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", ":"+strconv.Itoa(port))
	if err != nil {
		if hold != nil {
			hold.Close()
		}
		return false
	}
	l.Close()
	p.taken[port] = hold
	return true
}
