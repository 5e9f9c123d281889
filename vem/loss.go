package vem

import "fmt"

// Loss is why the sockets of a held app are not there; empty if they are, or the app holds
// none.
type Loss string

// The reasons.
const (
	LostByReboot Loss = "the host was started anew meanwhile"
	LostByEnd    Loss = "snapctld and its holder both ended meanwhile"
)

// LostError is a held app without its sockets.
type LostError struct {
	App    string
	Reason Loss
}

func (e *LostError) Error() string {
	return fmt.Sprintf("the sockets of app %s are lost: %s: no traffic wakes it, and when it is woken its connections are reset", e.App, e.Reason)
}

// Lost tells why the endpoint has no sockets, if it lost them.
func (e *Endpoint) Lost() Loss {
	e.holding.mu.Lock()
	defer e.holding.mu.Unlock()
	return e.holding.lost
}

// WhatIsLost returns a [*LostError] if the endpoint has lost its sockets.
func (e *Endpoint) WhatIsLost() error {
	why := e.Lost()
	if why == "" {
		return nil
	}
	return &LostError{App: e.Claim().App, Reason: why}
}
