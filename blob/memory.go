package blob

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"sync"
	"time"
)

var (
	_ Store  = (*Memory)(nil)
	_ Ranger = (*Memory)(nil)
)

// Memory is a Store that keeps its blobs in memory; they end with it. The zero value is
// empty and ready.
type Memory struct {
	mu    sync.RWMutex
	blobs map[string]kept
}

type kept struct {
	info Info
	data []byte // never changed once it is here: readers share it
}

// NewMemory is short for new(Memory).
func NewMemory() *Memory { return new(Memory) }

// Put implements [Store].
func (m *Memory) Put(ctx context.Context, key string, r io.Reader) (Info, error) {
	if err := CheckKey(key); err != nil {
		return Info{}, err
	}
	var buf bytes.Buffer
	size, digest, err := ingest(ctx, &buf, r)
	if err != nil {
		return Info{}, fmt.Errorf("blob: put %q: %w", key, err)
	}
	info := Info{Key: key, Size: size, SHA256: digest, Modified: time.Now()}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.blobs == nil {
		m.blobs = map[string]kept{}
	}
	m.blobs[key] = kept{info: info, data: buf.Bytes()}
	return info, nil
}

func (m *Memory) find(ctx context.Context, op, key string) (kept, error) {
	if err := CheckKey(key); err != nil {
		return kept{}, err
	}
	if err := ctx.Err(); err != nil {
		return kept{}, fmt.Errorf("blob: %s %q: %w", op, key, err)
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	k, ok := m.blobs[key]
	if !ok {
		return kept{}, absent(op, key)
	}
	return k, nil
}

// memoryReader can also seek and read at an offset, as the readers of [Dir] can.
type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

// Get implements [Store]. The reader is an [io.ReadSeeker] and an [io.ReaderAt] too.
func (m *Memory) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	k, err := m.find(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	return memoryReader{bytes.NewReader(k.data)}, nil
}

// GetRange implements [Ranger].
func (m *Memory) GetRange(ctx context.Context, key string, offset, length int64) (io.ReadCloser, error) {
	if offset < 0 {
		return nil, negativeOffset(key, offset)
	}
	k, err := m.find(ctx, "get", key)
	if err != nil {
		return nil, err
	}
	data := k.data[min(offset, int64(len(k.data))):]
	if length >= 0 {
		data = data[:min(length, int64(len(data)))]
	}
	return memoryReader{bytes.NewReader(data)}, nil
}

func negativeOffset(key string, offset int64) error {
	return fmt.Errorf("blob: get %q: offset %d is negative", key, offset)
}

// Stat implements [Store]; the Info is complete.
func (m *Memory) Stat(ctx context.Context, key string) (Info, error) {
	k, err := m.find(ctx, "stat", key)
	return k.info, err
}

// Delete implements [Store].
func (m *Memory) Delete(ctx context.Context, key string) error {
	if err := CheckKey(key); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("blob: delete %q: %w", key, err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.blobs, key)
	return nil
}

// List implements [Store]. It yields what there was when it began.
func (m *Memory) List(ctx context.Context, prefix string) iter.Seq2[Info, error] {
	return func(yield func(Info, error) bool) {
		var all []Info
		m.mu.RLock()
		for key, k := range m.blobs {
			if strings.HasPrefix(key, prefix) {
				all = append(all, k.info)
			}
		}
		m.mu.RUnlock()
		slices.SortFunc(all, func(a, b Info) int { return strings.Compare(a.Key, b.Key) })
		for _, info := range all {
			if err := ctx.Err(); err != nil {
				yield(Info{}, fmt.Errorf("blob: list %q: %w", prefix, err))
				return
			}
			if !yield(info, nil) {
				return
			}
		}
		if err := ctx.Err(); err != nil {
			yield(Info{}, fmt.Errorf("blob: list %q: %w", prefix, err))
		}
	}
}
