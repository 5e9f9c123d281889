package inject

// Abandon ends the connection to the tracer, as the end of this process would.
func (t *Tracer) Abandon() error {
	if err := t.in.Close(); err != nil {
		return err
	}
	return t.cmd.Wait()
}
