package tcprepair

import (
	"fmt"
	"math"
)

// Join returns the connection with both of its ends as one moment, as Restore makes them:
// what [Release] needs. One of a single end stays as it is. Fails with an error wrapping
// [ErrInconsistent].
func (c Connection) Join() (Connection, error) {
	if len(c.Ends) < 2 {
		return c, nil
	}
	ends, err := c.join()
	return Connection{Ends: ends[:]}, err
}

// join returns both ends as one moment: what one has received the other has sent and
// knows acknowledged, and the rest is unsent. The states themselves stay as they are;
// their data is shared.
func (c Connection) join() ([2]State, error) {
	if len(c.Ends) != 2 {
		return [2]State{}, fmt.Errorf("%w: %d ends", ErrInconsistent, len(c.Ends))
	}
	joined := [2]State{c.Ends[0], c.Ends[1]}
	for i := range joined {
		if err := joined[i].joinTo(&c.Ends[1-i]); err != nil {
			return [2]State{}, err
		}
	}
	return joined, nil
}

// joinTo is join for one end; the other is as it was saved.
func (s *State) joinTo(other *State) error {
	if !same(s, other) {
		return fmt.Errorf("%w: their addresses or what they agreed on differ", ErrInconsistent)
	}
	got := other.ReceiveEnd - (s.SendEnd - uint32(len(s.Sent)))
	if int64(got) > int64(len(s.Sent)) || other.Finished && (!s.Finish || int(got) != len(s.Sent)) {
		return fmt.Errorf("%w: one has received what the other has not sent", ErrInconsistent)
	}
	s.Sent = s.Sent[got:]
	s.Unsent = len(s.Sent)

	// The window is what the other end has announced last: it would not announce it again.
	s.Window.Send = other.edge() - other.ReceiveEnd
	s.Window.Max = max(s.Window.Max, s.Window.Send)
	s.Window.SendUpdate = s.ReceiveEnd
	edge := s.edge()
	if before(s.ReceiveEnd, s.Window.Announced) {
		s.Window.Announced = s.ReceiveEnd // FIN was counted
	}
	s.Window.Receive = edge - s.Window.Announced
	if s.Window.Receive > math.MaxInt32 {
		return fmt.Errorf("%w: a window of %d bytes", ErrInconsistent, s.Window.Receive)
	}
	return nil
}

// edge is the end of what may be sent to this end; there is always room for a FIN
// that had arrived.
func (s *State) edge() uint32 {
	edge := s.Window.Announced + s.Window.Receive
	least := s.ReceiveEnd
	if s.Finished {
		least++
	}
	if before(edge, least) {
		return least
	}
	return edge
}

// same tells whether two ends may be of one connection.
func same(a, b *State) bool {
	na, nb := &a.Negotiated, &b.Negotiated
	return unmap(a.Local) == unmap(b.Remote) && unmap(a.Remote) == unmap(b.Local) &&
		na.Scaling == nb.Scaling && na.SACK == nb.SACK && na.Timestamps == nb.Timestamps &&
		na.SendScale == nb.ReceiveScale && na.ReceiveScale == nb.SendScale
}

// Whole returns the connection with both of its ends: the other one of a single end whose
// other end was closed is made up. That is closed for good as soon as it is there.
func (c Connection) Whole() Connection {
	if len(c.Ends) != 1 {
		return c
	}
	return Connection{Ends: []State{c.Ends[0], c.Ends[0].mirror()}}
}

// mirror makes the other end of one whose stream has ended: it is closed for good as
// soon as it is there.
func (s *State) mirror() State {
	n := s.Negotiated
	n.SendScale, n.ReceiveScale = n.ReceiveScale, n.SendScale
	return State{
		Family: s.Family, Local: s.Remote, Remote: s.Local, Scope: s.Scope,
		Sending: Sending{SendEnd: s.ReceiveEnd, Finish: true}, Receiving: Receiving{ReceiveEnd: s.SendEnd},
		Window:     Window{Receive: s.Window.Send, Announced: s.SendEnd, Max: s.Window.Receive},
		Negotiated: n, Options: Options{BufferLock: -1},
	}
}
