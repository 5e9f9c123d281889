package vxlan

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/fabric/rule"
)

// closeFabric puts the table into the fabric that drops what the host did not let in, and what
// says it comes from where no endpoint of another host is.
func (g guard) closeFabric() error {
	c, err := open(g.fabric)
	if err != nil {
		return err
	}
	t := &nftables.Table{Name: fabricTable, Family: nftables.TableFamilyINet}
	c.AddTable(t)
	c.DelTable(t)
	c.AddTable(t)
	c.AddObj(&nftables.CounterObj{Table: t, Name: refused})
	chain := c.AddChain(&nftables.Chain{Name: "prerouting", Table: t, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw})
	drop := func(parts ...[]expr.Any) {
		all := slices.Concat(append([][]expr.Any{rule.In(fabric.VXLANDevice)}, parts...)...)
		c.AddRule(&nftables.Rule{Table: t, Chain: chain, Exprs: slices.Concat(all, count(refused), verdict(expr.VerdictDrop, ""))})
	}
	drop(load(expr.MetaKeyPRIORITY), compare(expr.CmpOpNeq, binaryutil.NativeEndian.PutUint32(passed)))
	for i, prefix := range []netip.Prefix{g.cfg.Prefix4, g.cfg.Prefix6} {
		f := families[i]
		if !prefix.IsValid() {
			drop(is(f))
			continue
		}
		drop(rule.NotAddr(rule.Source, prefix))
		drop(rule.NotAddr(rule.Target, prefix))
		// An endpoint here, or the host.
		drop(is(f), routedBy(), compare(expr.CmpOpEq, []byte(fabric.EndpointPrefix)))
		drop(is(f), routedBy(), compare(expr.CmpOpEq, padded(fabric.UplinkDevice)))
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("set firewall table %s of the fabric: %w", fabricTable, err)
	}
	return nil
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

// ours matches what is in VXLAN with the network's number: udp dport 7077 @th,96,24 NUMBER
func (g guard) ours() []expr.Any {
	number := binary.BigEndian.AppendUint32(nil, g.cfg.vni())[1:]
	return slices.Concat(
		rule.Port(unix.IPPROTO_UDP, Port),
		[]expr.Any{&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 12, Len: 3}},
		compare(expr.CmpOpEq, number),
	)
}

// meta priority set PASSED
func prioritise() []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: binaryutil.NativeEndian.PutUint32(passed)},
		&expr.Meta{Key: expr.MetaKeyPRIORITY, SourceRegister: true, Register: 1},
	}
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
