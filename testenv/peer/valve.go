package peer

import "sync"

// Valve pauses all that a process sends: of its own loads ([Target]) and, as a
// responder, of those of others ([Service]). While it is shut, connections stay
// open and silent, and the silence does not count as a stall. The zero value is open,
// and so is nil. Its methods are safe for concurrent use.
type Valve struct {
	mu     sync.Mutex
	shut   chan struct{} // closed when it opens; nil while it is open
	stalls map[*stall]struct{}
}

// Shut lets nothing more be sent. What is being written still is.
func (v *Valve) Shut() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shut != nil {
		return
	}
	v.shut = make(chan struct{})
	for s := range v.stalls {
		s.suspend()
	}
}

// Open undoes Shut.
func (v *Valve) Open() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shut == nil {
		return
	}
	close(v.shut)
	v.shut = nil
	for s := range v.stalls {
		s.resume()
	}
}

// opened returns a channel that is closed when the valve is open.
func (v *Valve) opened() <-chan struct{} {
	if v == nil {
		return always
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.shut == nil {
		return always
	}
	return v.shut
}

// always is the channel of an open valve.
var always = func() <-chan struct{} {
	c := make(chan struct{})
	close(c)
	return c
}()

// watch suspends a stall while the valve is shut, until forget is called.
func (v *Valve) watch(s *stall) (forget func()) {
	if v == nil {
		return func() {}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.stalls == nil {
		v.stalls = make(map[*stall]struct{})
	}
	v.stalls[s] = struct{}{}
	if v.shut != nil {
		s.suspend()
	}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		delete(v.stalls, s)
	}
}
