package outward

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/google/nftables/expr"
	mdnetlink "github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

// transaction makes a table of the firewall anew, at once. Package nftables does that too, but for
// expressions that it can't write: see marshal.
type transaction struct {
	table string
	list  []mdnetlink.Message
	err   error // the first that there was
}

// newTransaction begins with a table that has nothing in it.
func newTransaction(table string) *transaction {
	t := &transaction{table: table}
	t.add(unix.NFT_MSG_NEWTABLE, mdnetlink.Create, t.name) // so that there is one to delete
	t.remove()
	t.add(unix.NFT_MSG_NEWTABLE, mdnetlink.Create, t.name)
	return t
}

func (t *transaction) name(a *mdnetlink.AttributeEncoder) { a.String(unix.NFTA_TABLE_NAME, t.table) }

// remove removes the table.
func (t *transaction) remove() { t.add(unix.NFT_MSG_DELTABLE, 0, t.name) }

// nfgenmsg is the header of a message: include/uapi/linux/netfilter/nfnetlink.h.
func nfgenmsg(family byte, resource uint16) []byte {
	return binary.BigEndian.AppendUint16([]byte{family, unix.NFNETLINK_V0}, resource)
}

func (t *transaction) add(kind uint16, flags mdnetlink.HeaderFlags, fill func(a *mdnetlink.AttributeEncoder)) {
	attrs := mdnetlink.NewAttributeEncoder()
	attrs.ByteOrder = binary.BigEndian
	fill(attrs)
	data, err := attrs.Encode()
	t.err = errors.Join(t.err, err)
	t.list = append(t.list, mdnetlink.Message{
		Header: mdnetlink.Header{Type: mdnetlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | kind), Flags: mdnetlink.Request | mdnetlink.Acknowledge | flags},
		Data:   append(nfgenmsg(unix.NFPROTO_INET, 0), data...),
	})
}

// chain adds a chain of type filter.
func (t *transaction) chain(name string, hook uint32, priority int32) {
	t.add(unix.NFT_MSG_NEWCHAIN, mdnetlink.Create, func(a *mdnetlink.AttributeEncoder) {
		a.String(unix.NFTA_CHAIN_TABLE, t.table)
		a.String(unix.NFTA_CHAIN_NAME, name)
		a.Nested(unix.NFTA_CHAIN_HOOK, func(h *mdnetlink.AttributeEncoder) error {
			h.Uint32(unix.NFTA_HOOK_HOOKNUM, hook)
			h.Uint32(unix.NFTA_HOOK_PRIORITY, uint32(priority))
			return nil
		})
		a.String(unix.NFTA_CHAIN_TYPE, "filter")
	})
}

// rule adds a rule after those that a chain has.
func (t *transaction) rule(chain string, parts []expr.Any) {
	t.add(unix.NFT_MSG_NEWRULE, mdnetlink.Create|mdnetlink.Append, func(a *mdnetlink.AttributeEncoder) {
		a.String(unix.NFTA_RULE_TABLE, t.table)
		a.String(unix.NFTA_RULE_CHAIN, chain)
		a.Nested(unix.NFTA_RULE_EXPRESSIONS, func(list *mdnetlink.AttributeEncoder) error {
			for _, e := range parts {
				raw, err := marshal(e)
				if err != nil {
					return err
				}
				list.Bytes(unix.NFTA_LIST_ELEM|unix.NLA_F_NESTED, raw)
			}
			return nil
		})
	})
}

// commit makes all of it so in a namespace, or nothing.
func (t *transaction) commit(ns *netns.NS) (err error) {
	if t.err != nil {
		return t.err
	}
	c, err := mdnetlink.Dial(unix.NETLINK_NETFILTER, &mdnetlink.Config{NetNS: int(ns.File().Fd())})
	if err != nil {
		return fmt.Errorf("open firewall: %w", err)
	}
	defer c.Close() //nolint:errcheck // all answers have come
	frame := func(kind mdnetlink.HeaderType) mdnetlink.Message {
		return mdnetlink.Message{Header: mdnetlink.Header{Type: kind, Flags: mdnetlink.Request}, Data: nfgenmsg(unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)}
	}
	all := append(append([]mdnetlink.Message{frame(unix.NFNL_MSG_BATCH_BEGIN)}, t.list...), frame(unix.NFNL_MSG_BATCH_END))
	if _, err := c.SendMessages(all); err != nil {
		return err
	}
	for range t.list { // each answer is a message of its own
		if _, failed := c.Receive(); err == nil {
			err = failed
		}
	}
	return err
}
