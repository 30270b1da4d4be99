package droplet

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/klauspost/compress/flate"
	"golang.org/x/sync/errgroup"
)

const (
	// blockSize is a part of the format of our droplets: another size gives other bytes.
	blockSize = 1 << 20
	// window is how far back deflate can refer.
	window = 32 << 10
)

// block is compressed on its own, with the end of the block before it as dictionary. Each
// ends at a byte boundary (as a flush does), so blocks joined together are one deflate stream.
type block struct {
	dict []byte
	data []byte
	out  bytes.Buffer
	err  error
	done chan struct{}
}

// compress gives fill a writer whose bytes go gzipped to w.
func compress(ctx context.Context, w io.Writer, level, parallel int, fill func(io.Writer) error) error {
	g, ctx := errgroup.WithContext(ctx)
	z := &blocks{
		ctx: ctx, todo: make(chan *block, parallel), order: make(chan *block, 2*parallel),
		free: make(chan *block, 3*parallel+2),
	}
	z.cur = z.get()
	g.Go(func() error {
		defer close(z.todo)
		defer close(z.order)
		if err := fill(z); err != nil {
			return err
		}
		err := z.flush()
		z.complete = err == nil
		return err
	})
	for range parallel {
		g.Go(func() error {
			fw, err := flate.NewWriter(nil, level)
			if err != nil {
				return fmt.Errorf("make compressor: %w", err)
			}
			for b := range z.todo {
				b.compress(fw)
			}
			return nil
		})
	}
	g.Go(func() error { return z.join(w) })
	return g.Wait()
}

func (b *block) compress(fw *flate.Writer) {
	defer close(b.done)
	b.out.Reset()
	fw.ResetDict(&b.out, b.dict)
	if _, b.err = fw.Write(b.data); b.err == nil {
		b.err = fw.Flush()
	}
}

// blocks cuts what is written to it into blocks.
type blocks struct {
	ctx         context.Context
	todo, order chan *block
	free        chan *block
	cur         *block
	complete    bool // set before order is closed: all that was written is in it
}

func (z *blocks) get() *block {
	select {
	case b := <-z.free:
		b.data, b.dict = b.data[:0], b.dict[:0]
		return b
	default:
		return &block{data: make([]byte, 0, blockSize), dict: make([]byte, 0, window)}
	}
}

func (z *blocks) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), blockSize-len(z.cur.data))
		z.cur.data = append(z.cur.data, p[:k]...)
		if p = p[k:]; len(z.cur.data) == blockSize {
			if err := z.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// flush sends the current block off and begins the next.
func (z *blocks) flush() error {
	b := z.cur
	if len(b.data) == 0 {
		return nil
	}
	next := z.get()
	next.dict = append(next.dict, b.data[max(0, len(b.data)-window):]...)
	b.done = make(chan struct{})
	select {
	case z.todo <- b:
	case <-z.ctx.Done():
		return z.ctx.Err()
	}
	z.cur = next
	select {
	case z.order <- b:
	case <-z.ctx.Done():
		return z.ctx.Err()
	}
	return nil
}

// join writes the blocks in order, between the header and the trailer of RFC 1952.
func (z *blocks) join(w io.Writer) error {
	// No name, no time, no operating system.
	if _, err := w.Write([]byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff}); err != nil {
		return err
	}
	sum, size := crc32.NewIEEE(), uint32(0)
	for b := range z.order {
		<-b.done
		if b.err != nil {
			return b.err
		}
		sum.Write(b.data)
		size += uint32(len(b.data))
		if _, err := w.Write(b.out.Bytes()); err != nil {
			return err
		}
		select {
		case z.free <- b:
		default:
		}
	}
	if !z.complete {
		return nil // fill or flush failed, and says why: it may do so after this
	}
	end := []byte{3, 0} // a last block with nothing in it
	end = binary.LittleEndian.AppendUint32(end, sum.Sum32())
	end = binary.LittleEndian.AppendUint32(end, size)
	_, err := w.Write(end)
	return err
}
