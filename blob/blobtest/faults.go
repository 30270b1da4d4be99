package blobtest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"sync"

	"github.com/dewpoint-go/dewpoint/blob"
)

// Op is a method of [blob.Store].
type Op string

// The operations that can be made to fail.
const (
	Put    Op = "put"
	Get    Op = "get"
	Stat   Op = "stat"
	Delete Op = "delete"
	List   Op = "list"
)

// Fault is how an operation fails.
type Fault int

// The faults. Those of an operation that changes something come as a pair: a caller has to
// cope with both, for it cannot tell them apart.
const (
	None    Fault = iota
	NotDone       // fails and does nothing
	Done          // is done, but the answer is an error
	Midway        // fails after half of the bytes (Put, Get) or after the first blob (List)
)

// ErrFault is what a faulty operation answers, wrapped.
var ErrFault = errors.New("injected fault")

// ErrDiskFull is what Put answers, wrapped, when [Faults.DiskFull] has come true.
var ErrDiskFull = errors.New("no space left on device")

var (
	_ blob.Store  = (*Faults)(nil)
	_ blob.Ranger = (*Faults)(nil)
)

// Faults is a Store that fails as it is told; untold, it is the Store it wraps.
type Faults struct {
	store blob.Store

	mu     sync.Mutex
	decide func(op Op, key string) Fault
	space  int64
}

// NewFaults wraps a Store.
func NewFaults(store blob.Store) *Faults { return &Faults{store: store, space: math.MaxInt64} }

// Decide makes fn choose the fault of each operation from now on; nil: none. fn is called
// before the operation begins, by the goroutine that asked for it, so it is also the place
// to stop one and let another pass. GetRange counts as Get.
func (f *Faults) Decide(fn func(op Op, key string) Fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.decide = fn
}

// Once makes the next operation of that kind fail, and none after it.
func (f *Faults) Once(op Op, fault Fault) {
	var once sync.Once
	f.Decide(func(o Op, _ string) (is Fault) {
		if o == op {
			once.Do(func() { is = fault })
		}
		return is
	})
}

// DiskFull makes each Put fail with [ErrDiskFull] that would bring the bytes put from now
// on above n; a negative n: never.
func (f *Faults) DiskFull(n int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.space = n
	if n < 0 {
		f.space = math.MaxInt64
	}
}

func (f *Faults) fault(op Op, key string) Fault {
	f.mu.Lock()
	decide := f.decide
	f.mu.Unlock()
	if decide == nil {
		return None
	}
	return decide(op, key)
}

func fail(op Op, key string) error { return fmt.Errorf("%s %q: %w", op, key, ErrFault) }

// takeSpace reads and counts against the space that is left.
type takeSpace struct {
	f *Faults
	r io.Reader
}

func (t takeSpace) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	t.f.mu.Lock()
	defer t.f.mu.Unlock()
	if int64(n) > t.f.space {
		return 0, ErrDiskFull
	}
	t.f.space -= int64(n)
	return n, err
}

// Put implements [blob.Store].
func (f *Faults) Put(ctx context.Context, key string, r io.Reader) (blob.Info, error) {
	r = takeSpace{f, r}
	switch f.fault(Put, key) {
	case NotDone:
		return blob.Info{}, fail(Put, key)
	case Midway:
		all, err := io.ReadAll(r)
		if err == nil {
			err = fail(Put, key)
		}
		return f.store.Put(ctx, key, &broken{data: all[:len(all)/2], err: err})
	case Done:
		if _, err := f.store.Put(ctx, key, r); err != nil {
			return blob.Info{}, err
		}
		return blob.Info{}, fail(Put, key)
	}
	return f.store.Put(ctx, key, r)
}

// Get implements [blob.Store].
func (f *Faults) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	return f.GetRange(ctx, key, 0, -1)
}

// GetRange implements [blob.Ranger], also over a Store that does not.
func (f *Faults) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	fault := f.fault(Get, key)
	if fault == NotDone || fault == Done {
		return nil, fail(Get, key)
	}
	r, err := getRange(ctx, f.store, key, offset, length)
	if err != nil || fault == None {
		return r, err
	}
	all, err := io.ReadAll(r)
	r.Close()
	if err != nil {
		return nil, err
	}
	return io.NopCloser(&broken{data: all[:len(all)/2], err: fail(Get, key)}), nil
}

func getRange(ctx context.Context, s blob.Store, key string, offset, length int64) (io.ReadCloser, error) {
	if offset == 0 && length < 0 {
		return s.Get(ctx, key)
	}
	if ranger, ok := s.(blob.Ranger); ok {
		return ranger.GetRange(ctx, key, offset, length)
	}
	r, err := s.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, offset); err != nil && !errors.Is(err, io.EOF) {
		r.Close()
		return nil, err
	}
	if length < 0 {
		return r, nil
	}
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(r, length), r}, nil
}

// Stat implements [blob.Store].
func (f *Faults) Stat(ctx context.Context, key string) (blob.Info, error) {
	if f.fault(Stat, key) != None {
		return blob.Info{}, fail(Stat, key)
	}
	return f.store.Stat(ctx, key)
}

// Delete implements [blob.Store].
func (f *Faults) Delete(ctx context.Context, key string) error {
	switch f.fault(Delete, key) {
	case NotDone, Midway:
		return fail(Delete, key)
	case Done:
		if err := f.store.Delete(ctx, key); err != nil {
			return err
		}
		return fail(Delete, key)
	}
	return f.store.Delete(ctx, key)
}

// List implements [blob.Store]. Done yields all and then the error.
func (f *Faults) List(ctx context.Context, prefix string) iter.Seq2[blob.Info, error] {
	return func(yield func(blob.Info, error) bool) {
		fault := f.fault(List, prefix)
		if fault == NotDone {
			yield(blob.Info{}, fail(List, prefix))
			return
		}
		for info, err := range f.store.List(ctx, prefix) {
			if !yield(info, err) {
				return
			}
			if fault == Midway {
				break
			}
		}
		if fault != None {
			yield(blob.Info{}, fail(List, prefix))
		}
	}
}

// broken yields data and then an error.
type broken struct {
	data []byte
	err  error
}

func (b *broken) Read(p []byte) (int, error) {
	if len(b.data) == 0 {
		return 0, b.err
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	return n, nil
}
