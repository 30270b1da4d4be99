package router

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"syscall"
	"time"
)

// quickConn is a connection of which it can be told that nothing came while it was idle.
type quickConn struct {
	net.Conn
	pool  *pool
	raw   syscall.RawConn
	peek  func(fd uintptr) bool
	clean bool // of the last peek
	br    *bufio.Reader
	head  []byte // of the request
	left  int64  // bytes that may be read until the head of a response must have ended
	got   bool   // something came since the request was sent
	since time.Time
	stop  func() bool // ends the watch over the client
}

var errBigHead = fmt.Errorf("the head of the response is longer than %d bytes", maxHead)

func (c *quickConn) Read(b []byte) (int, error) {
	if c.left <= 0 {
		return 0, errBigHead
	}
	if int64(len(b)) > c.left {
		b = b[:c.left]
	}
	n, err := c.Conn.Read(b)
	c.left -= int64(n)
	c.got = c.got || n > 0
	return n, err
}

// connect returns a connection; nil without an error: the backend has none of this kind.
func (p *pool) connect(ctx context.Context, fresh bool) (*quickConn, bool, error) {
	p.mu.Lock()
	if p.alien {
		p.mu.Unlock()
		return nil, false, nil
	}
	for !fresh && len(p.idle) > 0 {
		n := len(p.idle) - 1
		c := p.idle[n]
		p.idle[n] = nil
		p.idle = p.idle[:n]
		p.mu.Unlock()
		if c.usable() {
			return c, false, nil
		}
		c.Close()
		p.mu.Lock()
	}
	p.mu.Unlock()
	conn, err := p.dial(ctx, false)
	if err != nil {
		return nil, true, err
	}
	c := &quickConn{Conn: conn, pool: p}
	if s, ok := conn.(syscall.Conn); ok && canPeek {
		c.raw, _ = s.SyscallConn()
	}
	if c.raw == nil {
		p.mu.Lock()
		p.alien = true
		p.spare = append(p.spare, conn)
		p.mu.Unlock()
		return nil, true, nil
	}
	var one [1]byte
	c.peek = func(fd uintptr) bool {
		c.clean = nothingToRead(fd, one[:])
		return true
	}
	c.br = bufio.NewReaderSize(c, 4<<10)
	return c, true, nil
}

// usable tells whether the backend neither closed the connection nor sent what nobody asked
// for, which would be taken for the next response.
func (c *quickConn) usable() bool {
	c.clean = false
	return c.raw.Read(c.peek) == nil && c.clean
}

// put keeps a connection for the next request.
func (p *pool) put(c *quickConn) {
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone.Load() {
		c.Close()
		return
	}
	p.idle = append(p.idle, c)
	if p.aging == nil {
		p.aging = time.AfterFunc(idleFor, func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.age(idleFor)
		})
	}
}

// age closes the connections that were idle for so long, and sees to it that the others are
// looked at again. p.mu is held.
func (p *pool) age(d time.Duration) {
	if p.aging != nil {
		p.aging.Stop()
		p.aging = nil
	}
	now, n := time.Now(), 0
	for n < len(p.idle) && now.Sub(p.idle[n].since) >= d {
		p.idle[n].Close()
		n++
	}
	p.idle = append(p.idle[:0], p.idle[n:]...)
	clear(p.idle[len(p.idle):cap(p.idle)])
	if len(p.idle) > 0 {
		p.aging = time.AfterFunc(d-now.Sub(p.idle[0].since), func() {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.age(d)
		})
	}
	if d == 0 {
		for _, c := range p.spare {
			c.Close()
		}
		p.spare = nil
	}
}
