package wake

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/payload"
)

// tap is a packet socket in the app's network namespace that becomes readable
// when a TCP segment with payload comes in. It is only a hint to look at the
// sockets: the packets themselves are not read, and some may be missed.
//
// Needs CAP_NET_RAW in the namespace.
type tap struct{ fd int }

// openTap starts the tap, if there is a namespace to run it in, and an IP
// listener to run it for.
func (w *Watcher) openTap() error {
	if w.tap != nil || w.ns == nil {
		return nil
	}
	useful := false
	for i := range w.queues.waiting {
		useful = useful || w.set.Sockets[i].Kind == hold.TCPListen
	}
	if !useful {
		return nil
	}
	t := &tap{fd: -1}
	if err := w.ns.Do(t.open); err != nil {
		return fmt.Errorf("open packet tap: %w", err)
	}
	if err := w.add(t.fd, tapIndex, unix.EPOLLIN|unix.EPOLLET); err != nil {
		t.close()
		return fmt.Errorf("watch packet tap: %w", err)
	}
	w.tap = t
	return nil
}

func (w *Watcher) closeTap() {
	if w.tap != nil {
		w.tap.close()
		w.tap = nil
	}
}

// open makes the socket in the calling thread's namespace. It is bound to a
// protocol only once its filter is there.
func (t *tap) open() (err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			unix.Close(fd) //nolint:errcheck // the first error counts
		}
	}()
	if err := (payload.Filter{}).Attach(fd); err != nil {
		return err
	}
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: bigEndian(unix.ETH_P_ALL)}); err != nil {
		return err
	}
	t.fd = fd
	return nil
}

func bigEndian(v uint16) uint16 { return v<<8 | v>>8 }

func (t *tap) close() { unix.Close(t.fd) } //nolint:errcheck // nothing was written

// drain forgets the packets seen so far.
func (t *tap) drain() {
	var b [1]byte
	for {
		if _, _, err := unix.Recvfrom(t.fd, b[:], unix.MSG_DONTWAIT); err != nil {
			return
		}
	}
}
