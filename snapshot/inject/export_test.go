package inject

import "errors"

// Abandon ends the connection to the tracer, as the end of this process would.
func (t *Tracer) Abandon() error {
	if err := t.in.Close(); err != nil {
		return err
	}
	return t.cmd.Wait()
}

// Die is what becomes of the pipes when this process ends, whatever the tracer does at that moment.
func (t *Tracer) Die() error { return errors.Join(t.in.Close(), t.out.Close()) }

// State is the state of a thread.
var State = state
