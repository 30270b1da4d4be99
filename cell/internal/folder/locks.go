package folder

import "sync"

// Locks are mutexes of containers, by their keys. The zero value is ready.
type Locks struct {
	mu  sync.Mutex
	all map[string]*sync.Mutex // guarded by mu
}

// Lock locks that of a container.
func (l *Locks) Lock(key string) (unlock func()) {
	l.mu.Lock()
	if l.all == nil {
		l.all = map[string]*sync.Mutex{}
	}
	m := l.all[key]
	if m == nil {
		m = &sync.Mutex{}
		l.all[key] = m
	}
	l.mu.Unlock()
	m.Lock()
	return m.Unlock
}

// Forget is for a container that has ended: nobody will want its mutex.
func (l *Locks) Forget(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.all, key)
}
