package router

// Pools returns the number of backends that the router knows.
func (r *Router) Pools() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pools)
}
