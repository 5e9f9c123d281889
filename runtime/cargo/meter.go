package cargo

import "time"

// tellEvery is how often somebody is told how far a transfer is.
const tellEvery = 100 * time.Millisecond

// meter counts how far a transfer is.
type meter struct {
	Progress

	tell func(Progress) // may be nil
	told time.Time
}

// save counts what need not be sent.
func (m *meter) save(size int64) { m.SavedBytes += size }

// bytes counts what was sent of a file.
func (m *meter) bytes(n, wire int64) {
	m.DoneBytes += n
	m.SentBytes = wire
	if m.tell != nil && time.Since(m.told) >= tellEvery {
		m.told = time.Now()
		m.tell(m.Progress)
	}
}

// file counts a file, and what of it was a hole at its end.
func (m *meter) file(rest, wire int64) {
	m.Files++
	m.bytes(rest, wire)
}

// last returns all that was counted, and tells it.
func (m *meter) last(wire int64) Progress {
	m.SentBytes = wire
	if m.tell != nil {
		m.tell(m.Progress)
	}
	return m.Progress
}
