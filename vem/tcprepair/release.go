package tcprepair

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// Made is an end that [State.Restore] made, by any descriptor of it.
type Made struct {
	*State
	FD int
	// End has the kernel see the end of the other end's stream, if that had ended and the
	// other end, on another host, will not say so again: see [State.Restore]. May be nil.
	End func() error

	todo int // bytes that are to be sent: those that were unsent, and the one of repeat
}

// Release lets ends that State.Restore made go on, all of one connection: the kernel sends
// what was unsent, and ends streams that had ended. Releasing again, after one that was
// broken off in the middle, does the rest of it. Nobody may use the ends before.
func Release(ends ...Made) error {
	for _, step := range []func(*Made) error{(*Made).leave, (*Made).repeat, (*Made).goOn, (*Made).settle} {
		for i := range ends {
			if err := step(&ends[i]); err != nil {
				return ends[i].fail(err)
			}
		}
	}
	return nil
}

// leave ends repair mode. Before anything arrives, the socket gets the receive buffer that
// it had, for it would tell the other end of the room in the larger one.
func (m *Made) leave() error {
	m.todo = m.Unsent + int(m.repeated())
	if reuse, err := (End{FD: m.FD}).Reuse(); err != nil {
		return err
	} else if reuse != forceReuse {
		if err := m.find(); err != nil {
			return err
		}
	}
	if !m.Finished { // else there must be room for the other end's FIN
		if err := m.shrink(unix.SO_RCVBUFFORCE, m.Options.ReceiveBuffer); err != nil {
			return err
		}
	}
	return End{FD: m.FD}.leave(m.Options.ReuseAddress)
}

// find tells how much is to be sent yet by an end whose release was broken off. It is in
// repair mode again then.
func (m *Made) find() error {
	if err := errors.Join(setTCP(m.FD, unix.TCP_REPAIR, repairOn), setTCP(m.FD, unix.TCP_REPAIR_QUEUE, send)); err != nil {
		return fmt.Errorf("find what is unsent: %w", err)
	}
	next, err := getTCP(m.FD, unix.TCP_QUEUE_SEQ)
	if err := errors.Join(err, setTCP(m.FD, unix.TCP_REPAIR_QUEUE, noQueue)); err != nil {
		return fmt.Errorf("find what is unsent: %w", err)
	}
	m.todo = min(max(int(int32(m.SendEnd-uint32(next))), 0), m.todo) // FIN counts once it is sent
	return nil
}

// goOn sends what was unsent, and the end of the stream.
func (m *Made) goOn() error {
	if err := fill(m.FD, m.Sent[len(m.Sent)-m.todo:]); err != nil {
		return fmt.Errorf("send what was unsent: %w", err)
	}
	if err := m.Options.apply(m.FD, last); err != nil {
		return err
	}
	if m.Finish {
		if err := unix.Shutdown(m.FD, unix.SHUT_WR); err != nil && !errors.Is(err, unix.ENOTCONN) {
			return fmt.Errorf("end stream: %w", err)
		}
	}
	return m.shrink(unix.SO_SNDBUFFORCE, m.Options.SendBuffer)
}

// settle is what remains when both ends go on.
func (m *Made) settle() error {
	if m.Finished {
		if m.End != nil {
			if err := m.End(); err != nil {
				return err
			}
		}
		// It comes within microseconds. If it were late, the program would see what
		// it may see on any network: the end of the stream after its data.
		p := []unix.PollFd{{Fd: int32(m.FD), Events: unix.POLLRDHUP}}
		const patience = 1000 // milliseconds
		_, err := unix.Poll(p, patience)
		for errors.Is(err, unix.EINTR) {
			_, err = unix.Poll(p, patience)
		}
		if err != nil {
			return fmt.Errorf("wait for end of stream: %w", err)
		}
		if err := m.shrink(unix.SO_RCVBUFFORCE, m.Options.ReceiveBuffer); err != nil {
			return err
		}
	}
	if m.Deaf {
		if err := unix.Shutdown(m.FD, unix.SHUT_RD); err != nil && !errors.Is(err, unix.ENOTCONN) {
			return fmt.Errorf("shut down: %w", err)
		}
	}
	if m.Options.BufferLock < 0 {
		return nil
	}
	if err := unix.SetsockoptInt(m.FD, unix.SOL_SOCKET, soBufLock, m.Options.BufferLock); err != nil {
		return fmt.Errorf("set SO_BUF_LOCK: %w", err)
	}
	return nil
}

func (m *Made) shrink(which, size int) error {
	if size == 0 {
		return nil // of an end that is closed at once
	}
	return buffer(m.FD, which, size)
}
