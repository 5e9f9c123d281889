package netconf

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
)

// Table is a table of nftables, with the messages that make it again.
type Table struct {
	Name     string          `json:"name"` // with its family, like "inet filter"
	Messages []FilterMessage `json:"messages"`
}

// FilterMessage is something that nftables tells of, and can be told.
type FilterMessage struct {
	Type uint16 `json:"type"` // NFT_MSG_NEWTABLE and the like
	Data []byte `json:"data"`
}

// filterHeader is the size of struct nfgenmsg, whose first byte is the family.
const filterHeader = 4

// filterKind is a kind of nftables messages.
type filterKind struct {
	get, made uint16
	// Attributes: the name of the table; what the kernel gives by itself, and does not
	// want to be told.
	table uint16
	drop  []uint16
}

// filterKinds are in the order in which they are to be told: a rule names its sets, an
// element of a map its chains. linux/netfilter/nf_tables.h has the numbers.
var filterKinds = []filterKind{
	{unix.NFT_MSG_GETTABLE, unix.NFT_MSG_NEWTABLE, unix.NFTA_TABLE_NAME, []uint16{unix.NFTA_TABLE_USE, 4}},                           // NFTA_TABLE_HANDLE
	{unix.NFT_MSG_GETCHAIN, unix.NFT_MSG_NEWCHAIN, unix.NFTA_CHAIN_TABLE, []uint16{unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_USE, 11}}, // NFTA_CHAIN_ID
	{unix.NFT_MSG_GETOBJ, unix.NFT_MSG_NEWOBJ, unix.NFTA_OBJ_TABLE, []uint16{unix.NFTA_OBJ_USE, 6}},                                  // NFTA_OBJ_HANDLE
	{unix.NFT_MSG_GETSET, unix.NFT_MSG_NEWSET, unix.NFTA_SET_TABLE, []uint16{16, 19, 20}},                                            // NFTA_SET_HANDLE, and _TYPE and _COUNT (Linux 6.16)
	{unix.NFT_MSG_GETSETELEM, unix.NFT_MSG_NEWSETELEM, unix.NFTA_SET_ELEM_LIST_TABLE, nil},                                           // asked for by set
	{unix.NFT_MSG_GETFLOWTABLE, unix.NFT_MSG_NEWFLOWTABLE, 1, []uint16{4, 5}},                                                        // NFTA_FLOWTABLE_USE, _HANDLE
	{unix.NFT_MSG_GETRULE, unix.NFT_MSG_NEWRULE, unix.NFTA_RULE_TABLE, []uint16{unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_POSITION, 9}},  // NFTA_RULE_ID
}

func filterType(message uint16) netlink.HeaderType {
	return netlink.HeaderType(unix.NFNL_SUBSYS_NFTABLES<<8 | message)
}

var families = map[byte]string{
	unix.NFPROTO_INET: "inet", unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_ARP: "arp", unix.NFPROTO_NETDEV: "netdev", unix.NFPROTO_BRIDGE: "bridge",
}

// readTables reads all tables of the calling thread's namespace.
func readTables() (_ []Table, err error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, nil // a kernel without netfilter has no tables
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	var tables []Table
	var sets []FilterMessage
	for _, k := range filterKinds {
		var list []FilterMessage
		if k.get == unix.NFT_MSG_GETSETELEM {
			list, err = elements(c, sets)
		} else {
			list, err = dump(c, k, []byte{unix.NFPROTO_UNSPEC, 0, 0, 0}, netlink.Dump)
		}
		if err != nil {
			if k.get == unix.NFT_MSG_GETTABLE || k.get == unix.NFT_MSG_GETFLOWTABLE {
				continue // a kernel without
			}
			return nil, fmt.Errorf("read nftables: %w", err)
		}
		if k.get == unix.NFT_MSG_GETSET {
			sets = list
		}
		for _, m := range list {
			name := families[m.Data[0]] + " " + text(parse(m.Data[filterHeader:])[k.table])
			i := slices.IndexFunc(tables, func(t Table) bool { return t.Name == name })
			if i < 0 {
				i = len(tables)
				tables = append(tables, Table{Name: name})
			}
			tables[i].Messages = append(tables[i].Messages, m)
		}
	}
	return tables, nil
}

func text(b []byte) string { return strings.TrimRight(string(b), "\x00") }

func dump(c *netlink.Conn, k filterKind, body []byte, how netlink.HeaderFlags) ([]FilterMessage, error) {
	replies, err := netlist.Messages(func() ([]netlink.Message, error) {
		return c.Execute(netlink.Message{Header: netlink.Header{Type: filterType(k.get), Flags: netlink.Request | how}, Data: body})
	})
	if err != nil {
		return nil, err
	}
	var list []FilterMessage
	for _, m := range replies {
		if m.Header.Type != filterType(k.made) || len(m.Data) < filterHeader {
			continue
		}
		data := slices.Clone(m.Data[:filterHeader])
		data[2], data[3] = 0, 0 // the generation
		data = append(data, without(m.Data[filterHeader:], k.drop)...)
		if k.made == unix.NFT_MSG_NEWRULE {
			data = append(data, compat(data[filterHeader:])...)
		}
		list = append(list, FilterMessage{k.made, data})
	}
	return list, nil
}

// elements asks for the elements of each set.
func elements(c *netlink.Conn, sets []FilterMessage) ([]FilterMessage, error) {
	var all []FilterMessage
	k := filterKinds[slices.IndexFunc(filterKinds, func(k filterKind) bool { return k.get == unix.NFT_MSG_GETSETELEM })]
	for _, set := range sets {
		a := parse(set.Data[filterHeader:])
		b, err := netlink.MarshalAttributes([]netlink.Attribute{
			{Type: unix.NFTA_SET_ELEM_LIST_TABLE, Data: a[unix.NFTA_SET_TABLE]}, {Type: unix.NFTA_SET_ELEM_LIST_SET, Data: a[unix.NFTA_SET_NAME]},
		})
		if err != nil {
			return nil, err
		}
		list, err := dump(c, k, append([]byte{set.Data[0], 0, 0, 0}, b...), netlink.Dump)
		if err != nil {
			return nil, err
		}
		all = append(all, list...)
	}
	return all, nil
}

// without copies attributes but for some.
func without(b []byte, drop []uint16) []byte {
	var kept []netlink.Attribute
	for d, err := netlink.NewAttributeDecoder(b); err == nil && d.Next(); {
		if !slices.Contains(drop, d.Type()) {
			kept = append(kept, netlink.Attribute{Type: d.Type() | d.TypeFlags(), Data: d.Bytes()})
		}
	}
	out, err := netlink.MarshalAttributes(kept)
	if err != nil {
		return nil
	}
	return out
}

// compat tells, in the way of iptables, what protocol a rule is for that uses a match or
// target of iptables: the kernel asks for it, and does not tell it
// (net/netfilter/nft_compat.c, nft_parse_compat). The rule itself says so before.
func compat(rule []byte) []byte {
	const (
		exprName, exprData   = 1, 2
		payloadBase, offset  = 2, 3
		payloadLen, cmpValue = 4, 3
		metaKey, metaL4Proto = 2, 16
		networkHeader        = 1
		compatProto          = 1
		compatFlags          = 2
	)
	protocol, wanted, next := 0, false, false
	eachAttr(parse(rule)[unix.NFTA_RULE_EXPRESSIONS], func(_ uint16, e []byte) {
		a := parse(e)
		data := parse(a[exprData])
		big := func(kind uint16) int {
			v, n := data[kind], 0
			for _, b := range v {
				n = n<<8 | int(b)
			}
			return n
		}
		switch text(a[exprName]) {
		case "match", "target":
			wanted = true
		case "payload":
			next = big(payloadBase) == networkHeader && big(payloadLen) == 1 && (big(offset) == 9 || big(offset) == 6)
		case "meta":
			next = big(metaKey) == metaL4Proto
		case "cmp":
			if v := parse(data[cmpValue])[1]; next && len(v) == 1 {
				protocol = int(v[0])
			}
			next = false
		default:
			next = false
		}
	})
	if !wanted || protocol == 0 {
		return nil
	}
	inner, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: compatProto, Data: []byte{0, 0, 0, byte(protocol)}}, {Type: compatFlags, Data: []byte{0, 0, 0, 0}},
	})
	if err != nil {
		return nil
	}
	b, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_RULE_COMPAT | unix.NLA_F_NESTED, Data: inner}})
	if err != nil {
		return nil
	}
	return b
}

// applyTables makes tables, but for those that are there. Each is made whole or not at
// all.
func applyTables(tables []Table) []error {
	if len(tables) == 0 {
		return nil
	}
	have, err := readTables()
	var errs []error
	for _, t := range tables {
		terr := err
		switch {
		case err == nil && slices.ContainsFunc(have, func(h Table) bool { return h.Name == t.Name }):
			continue
		case err == nil:
			terr = t.apply()
		}
		if terr != nil {
			errs = append(errs, fmt.Errorf("nftables table %s: %w", t.Name, terr))
		}
	}
	return errs
}

func (t *Table) apply() (err error) {
	c, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	// A batch is for the subsystem that its header names, in network byte order.
	edge := func(kind int) netlink.Message {
		return netlink.Message{
			Header: netlink.Header{Type: netlink.HeaderType(kind), Flags: netlink.Request},
			Data:   []byte{unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, unix.NFNL_SUBSYS_NFTABLES},
		}
	}
	batch := []netlink.Message{edge(unix.NFNL_MSG_BATCH_BEGIN)}
	for i, m := range t.Messages {
		data := m.Data
		if m.Type == unix.NFT_MSG_NEWSET {
			// The kernel wants one for each of a batch (NFTA_SET_ID).
			id, err := netlink.MarshalAttributes([]netlink.Attribute{{Type: unix.NFTA_SET_ID, Data: []byte{0, 0, byte(i >> 8), byte(i)}}})
			if err != nil {
				return err
			}
			data = append(without(data[filterHeader:], []uint16{unix.NFTA_SET_ID}), id...)
			data = append(slices.Clone(m.Data[:filterHeader]), data...)
		}
		flags := netlink.Request | netlink.Create | netlink.Acknowledge
		if m.Type == unix.NFT_MSG_NEWRULE {
			flags |= netlink.Append
		}
		batch = append(batch, netlink.Message{Header: netlink.Header{Type: filterType(m.Type), Flags: flags}, Data: data})
	}
	if _, err := c.SendMessages(append(batch, edge(unix.NFNL_MSG_BATCH_END))); err != nil {
		return err
	}
	for acks := 0; acks < len(t.Messages); {
		replies, err := c.Receive()
		if err != nil {
			return err
		}
		acks += len(replies)
	}
	return nil
}
