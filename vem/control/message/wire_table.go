package message

import (
	"cmp"
	"crypto/sha256"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
)

// partRoutes is how many routes a part of a table has: some 25 bytes each.
const partRoutes = 1024

// SendTable sends a table in parts. sender is the host whose table it is.
func SendTable(send func(*pb.TablePart) error, t Table, sender string) error {
	part := new(pb.TablePart)
	if t.Channel != nil {
		part.Channel = ToChannel(*t.Channel)
	}
	for routes := t.Routes; ; part = new(pb.TablePart) {
		n := min(len(routes), partRoutes)
		part.Routes = toRoutes(routes[:n], sender)
		routes = routes[n:]
		part.Last = len(routes) == 0
		if err := send(part); err != nil || part.Last {
			return err
		}
	}
}

// ReceiveTable receives what SendTable sent, as the receiver sees it.
func ReceiveTable(receive func() (*pb.TablePart, error), network, sender, receiver string) (Table, error) {
	t := Table{Network: network}
	for first := true; ; first = false {
		part, err := receive()
		if err != nil {
			return Table{}, err
		}
		if err := t.add(part, first, sender, receiver); err != nil {
			return Table{}, err
		}
		if part.GetLast() {
			break
		}
	}
	var c Checks
	c.Table(t, sender, receiver)
	return t, c.Err
}

// add adds what a part of a table has.
func (t *Table) add(part *pb.TablePart, first bool, sender, receiver string) error {
	if m := part.GetChannel(); m != nil {
		var c Checks
		c.That(first, "channel", "is not in the first part of the table")
		ch, err := FromChannel(m)
		if c.Err != nil || err != nil {
			return cmp.Or(c.Err, err)
		}
		t.Channel = &ch
	}
	n := len(part.GetRoutes())
	var c Checks
	c.Count("routes", len(t.Routes)+n, 0, MaxRoutes)
	c.That(n > 0 || part.GetLast(), "routes", "are missing in a part that is not the last")
	if c.Err != nil {
		return c.Err
	}
	t.Routes = append(t.Routes, fromRoutes(part.GetRoutes(), sender, receiver)...)
	return nil
}

// FromStart returns the network and the digest of the first part that the asker sends.
func FromStart(part *pb.TablePart) (network string, digest [sha256.Size]byte, err error) {
	var c Checks
	c.Name("network", part.GetNetwork())
	c.Bytes("digest", part.GetDigest(), sha256.Size, sha256.Size)
	c.That(len(part.GetRoutes()) == 0 && part.GetChannel() == nil, "table", "begins without a digest")
	if c.Err != nil {
		return "", digest, c.Err
	}
	return part.GetNetwork(), [sha256.Size]byte(part.GetDigest()), nil
}
