package guard

import (
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// family is what differs between IPv4 and IPv6 underlays.
type family struct {
	suffix   string
	number   byte
	source   uint32 // offset of the address in the IP header
	target   uint32
	size     uint32
	datatype nftables.SetDatatype
}

var families = []family{
	{"4", unix.NFPROTO_IPV4, 12, 16, 4, nftables.TypeIPAddr},
	{"6", unix.NFPROTO_IPV6, 8, 24, 16, nftables.TypeIP6Addr},
}

func familyOf(a netip.Addr) family {
	if a.Is4() {
		return families[0]
	}
	return families[1]
}

func (f family) here(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: "here" + f.suffix, KeyType: f.datatype}
}

// hosts is a map of addresses to hosts' chains: "from4", "to6".
func (f family) hosts(t *nftables.Table, direction string) *nftables.Set {
	return &nftables.Set{Table: t, Name: direction + f.suffix, KeyType: f.datatype, IsMap: true, DataType: nftables.TypeVerdict}
}

func deviceSet(t *nftables.Table) *nftables.Set {
	return &nftables.Set{Table: t, Name: devices, KeyType: nftables.TypeIFName}
}

// More of the vocabulary of package rule, for sets, maps and counters.

// meta KEY
func load(key expr.MetaKey) []expr.Any { return []expr.Any{&expr.Meta{Key: key, Register: 1}} }

func compare(op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{&expr.Cmp{Op: op, Register: 1, Data: data}}
}

func padded(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// meta nfproto ipv4|ipv6
func is(f family) []expr.Any {
	return append(load(expr.MetaKeyNFPROTO), compare(expr.CmpOpEq, []byte{f.number})...)
}

// ip saddr, ip6 daddr ...
func (f family) load(offset uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.size}}
}

// fib saddr oifname
func routedBy() []expr.Any {
	return []expr.Any{&expr.Fib{Register: 1, FlagSADDR: true, ResultOIFNAME: true}}
}

// counter name NAME
func count(name string) []expr.Any {
	return []expr.Any{&expr.Objref{Type: unix.NFT_OBJECT_COUNTER, Name: name}}
}

func verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}

type sense bool

const inverted sense = true

// @SET, != @SET
func among(s *nftables.Set, invert sense) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID, Invert: bool(invert)}}
}

// vmap @MAP
func decide(s *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: 1, SetName: s.Name, SetID: s.ID, IsDestRegSet: true}}
}
