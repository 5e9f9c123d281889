package slowpath

// QueueLen and SenderBurst are for tests outside the package.
const (
	QueueLen    = queueLen
	SenderBurst = senderBurst
	Linger      = linger
)

// Crash ends what the process does and leaves its device as the kernel would if it were killed:
// what waits in the process is lost.
func (p *Path) Crash() error { return p.end(dropping, keeping) }
