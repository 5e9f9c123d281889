package inject

import "errors"

// Die is what becomes of the pipes when this process ends, whatever the tracer does at that moment.
func (t *Tracer) Die() error { return errors.Join(t.in.Close(), t.out.Close()) }

// Wait waits for the end of the tracer.
func (t *Tracer) Wait() error { return t.cmd.Wait() }

// State is the state of a thread.
var State = state
