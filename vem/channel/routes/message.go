package routes

import (
	"errors"
	"fmt"

	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/netns"
)

// batch is how many requests are sent at once, for their answers to find room.
const batch = 256

// Request makes one request in a namespace, and waits for its answer.
func Request(ns *netns.NS, kind uint16, flags mdnetlink.HeaderFlags, header []byte, attrs *mdnetlink.AttributeEncoder) error {
	m, err := message(kind, flags, header, attrs)
	if err != nil {
		return err
	}
	return exchange(ns, []mdnetlink.Message{m}, nil)
}

func message(kind uint16, flags mdnetlink.HeaderFlags, header []byte, attrs *mdnetlink.AttributeEncoder) (mdnetlink.Message, error) {
	data, err := attrs.Encode()
	if err != nil {
		return mdnetlink.Message{}, fmt.Errorf("encode a request: %w", err)
	}
	return mdnetlink.Message{
		Header: mdnetlink.Header{Type: mdnetlink.HeaderType(kind), Flags: mdnetlink.Request | mdnetlink.Acknowledge | flags},
		Data:   append(header, data...),
	}, nil
}

func dial(ns *netns.NS) (*mdnetlink.Conn, error) {
	c, err := mdnetlink.Dial(unix.NETLINK_ROUTE, &mdnetlink.Config{NetNS: int(ns.File().Fd())})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	const buffer = 4 << 20
	err = errors.Join(c.SetOption(mdnetlink.CapAcknowledge, true), c.SetOption(mdnetlink.GetStrictCheck, true), c.SetReadBuffer(buffer), c.SetWriteBuffer(buffer))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set netlink socket up: %w", err), c.Close())
	}
	return c, nil
}

// exchange makes requests in their order and waits for all answers. An error of one that fine
// allows is none. It returns the first of the others, and makes no request of a later batch then.
func exchange(ns *netns.NS, list []mdnetlink.Message, fine error) error {
	if len(list) == 0 {
		return nil
	}
	c, err := dial(ns)
	if err != nil {
		return err
	}
	defer c.Close() //nolint:errcheck // all answers have come
	for len(list) > 0 {
		some := list[:min(batch, len(list))]
		list = list[len(some):]
		if _, err := c.SendMessages(some); err != nil {
			return err
		}
		var failed error
		for range some { // each answer is a message of its own
			if _, err := c.Receive(); err != nil && failed == nil && (fine == nil || !errors.Is(err, fine)) {
				failed = err
			}
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

// Dump lists objects in a namespace.
func Dump(ns *netns.NS, kind uint16, header []byte, attrs *mdnetlink.AttributeEncoder) ([]mdnetlink.Message, error) {
	m, err := message(kind, mdnetlink.Dump, header, attrs)
	if err != nil {
		return nil, err
	}
	c, err := dial(ns)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // a list
	return netlist.Messages(func() ([]mdnetlink.Message, error) { return c.Execute(m) })
}
