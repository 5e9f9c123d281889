package tcprepair

import "fmt"

// A new socket knows nothing of how long the other end's answers take. Until something
// that it has sent is acknowledged, it waits 3 s before it sends what was lost again, or
// asks an end that had no room whether it has some by now (net/ipv4/tcp_metrics.c,
// tcp_init_metrics, TCP_TIMEOUT_FALLBACK). A connection of which one end is full would
// stand still for that long.
//
// So the first that an end sends is a byte that the other end has already: the last one
// before what it has not acknowledged, of any value, as keepalives are that RFC 1122
// (4.2.3.6) has for old hosts. The other end throws it away and acknowledges it at once
// (net/ipv4/tcp_input.c, tcp_data_queue), and that is a measurement. For this the new
// socket's stream begins a byte earlier.

// repeated is how many bytes before what is not acknowledged an end sends again: one, or
// none if something is on its way already.
func (s *State) repeated() uint32 {
	if s.Unsent < len(s.Sent) {
		return 0
	}
	return 1
}

// repeat sends that byte, on both ends before anything else: what one sends acknowledges
// the other's byte, which the kernel takes for nonsense if that was not sent yet, and
// drops (net/ipv4/tcp_input.c, tcp_ack). And the other end may have no room for what was
// unsent.
func (m *Made) repeat() error {
	if m.todo <= m.Unsent {
		return nil
	}
	m.todo--
	if err := fill(m.FD, make([]byte, 1)); err != nil {
		return fmt.Errorf("send a byte again: %w", err)
	}
	return nil
}
