package host

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netlist"
)

// Link is a cable between two hosts: a veth pair with an address at each end.
// It goes away with either host.
type Link struct {
	A, B netip.Addr // the ends on the host that was asked, and on the other one
	a, b end
}

// end is one end of a link.
type end struct {
	host   *Host
	number int
	name   string
}

// Link connects the host to another one. The ends get the first two addresses
// of prefix, which should be free on both, and are up.
func (h *Host) Link(ctx context.Context, other *Host, prefix netip.Prefix) (*Link, error) {
	l := &Link{a: h.newEnd(), b: other.newEnd()}
	l.A = prefix.Masked().Addr().Next()
	l.B = l.A.Next()
	err := h.Do(func() error {
		veth := &netlink.Veth{
			// Unlike the peer's: the kernel delays word of a carrier for up to
			// a second if the indexes are the same, linkwatch_urgent_event.
			LinkAttrs:     netlink.LinkAttrs{Name: l.a.name, Index: 1000 + l.a.number},
			PeerName:      l.b.name,
			PeerNamespace: netlink.NsFd(other.ns.File().Fd()),
		}
		return netlink.LinkAdd(veth)
	})
	if err != nil {
		return nil, fmt.Errorf("link %s to %s: %w", h.name, other.name, err)
	}
	a, b := netip.PrefixFrom(l.A, prefix.Bits()), netip.PrefixFrom(l.B, prefix.Bits())
	err = errors.Join(l.a.setUp(a), l.b.setUp(b))
	if err == nil {
		err = errors.Join(l.a.usable(ctx, l.A), l.b.usable(ctx, l.B))
	}
	if err != nil {
		return nil, fmt.Errorf("link %s to %s: %w", h.name, other.name, errors.Join(err, l.Delete()))
	}
	return l, nil
}

func (h *Host) newEnd() end {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.links++
	return end{host: h, number: h.links, name: fmt.Sprintf("link%d", h.links)}
}

func (e end) do(fn func(netlink.Link) error) error {
	return e.host.Do(func() error {
		dev, err := netlink.LinkByName(e.name)
		if err != nil {
			return fmt.Errorf("find %s on %s: %w", e.name, e.host.name, err)
		}
		if err := fn(dev); err != nil {
			return fmt.Errorf("set up %s on %s: %w", e.name, e.host.name, err)
		}
		return nil
	})
}

func (e end) setUp(at netip.Prefix) error {
	return e.do(func(dev netlink.Link) error {
		addr, err := netlink.ParseAddr(at.String())
		if err != nil {
			return err
		}
		if at.Addr().Is6() {
			addr.Flags |= unix.IFA_F_NODAD // nobody else is on the cable to ask
		}
		if err := netlink.AddrAdd(dev, addr); err != nil {
			return err
		}
		return netlink.LinkSetUp(dev)
	})
}

// usable waits until an address can be bound to: the kernel ends the tentative
// state of an IPv6 address a little later, even without duplicate detection.
func (e end) usable(ctx context.Context, at netip.Addr) error {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		ready := false
		err := e.do(func(dev netlink.Link) error {
			addrs, err := netlist.Addrs(netlist.Here())
			ready = slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
				return a.LinkIndex == dev.Attrs().Index && a.IP.Equal(at.AsSlice()) && a.Flags&unix.IFA_F_TENTATIVE == 0
			})
			return err
		})
		if ready || err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("wait for address %s: %w", at, ctx.Err())
		}
	}
}

// Cut makes the link lose all packets, silently, as a pulled cable between two
// switches does: neither end sees its carrier go. Needs CAP_NET_ADMIN, CAP_BPF and Linux 6.6.
func (l *Link) Cut() error {
	return errors.Join(l.a.drop(), l.b.drop())
}

// Mend undoes Cut.
func (l *Link) Mend() error {
	return errors.Join(l.a.pass(), l.b.pass())
}

// actShot drops a packet (include/uapi/linux/pkt_cls.h).
const actShot = 2

// cutName is what the program is called that drops.
const cutName = "cut"

// drop puts a program on an end that drops what comes in, before any other one sees it: nftables
// never sees what a program sends elsewhere, neither where it comes in (net/core/dev.c,
// __netif_receive_skb_core: nf_ingress follows sch_handle_ingress) nor where it leaves
// (include/linux/netfilter_netdev.h, nf_hook_egress: nf_skip_egress). Outgoing packets
// pass, for their sender to notice nothing: they are dropped at the other end.
func (e end) drop() error {
	return e.cut(func(device int, there *ebpf.Program) error {
		if there != nil {
			return nil
		}
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: cutName, Type: ebpf.SchedCLS, License: "Apache-2.0",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, actShot), asm.Return()},
		})
		if err != nil {
			return err
		}
		defer p.Close() //nolint:errcheck // the device keeps it
		return link.RawAttachProgram(link.RawAttachProgramOptions{Target: device, Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Head()})
	})
}

// pass removes the program.
func (e end) pass() error {
	return e.cut(func(device int, there *ebpf.Program) error {
		if there == nil {
			return nil
		}
		return link.RawDetachProgram(link.RawDetachProgramOptions{Target: device, Program: there, Attach: ebpf.AttachTCXIngress})
	})
}

// cut calls change with the program that drops, or nil if it is not there.
func (e end) cut(change func(device int, there *ebpf.Program) error) error {
	return e.do(func(dev netlink.Link) error {
		device := dev.Attrs().Index
		all, err := link.QueryPrograms(link.QueryOptions{Target: device, Attach: ebpf.AttachTCXIngress})
		if err != nil {
			return fmt.Errorf("cut link: list programs: %w", err)
		}
		for _, found := range all.Programs {
			p, err := ebpf.NewProgramFromID(found.ID)
			if err != nil {
				return fmt.Errorf("cut link: open program: %w", err)
			}
			info, err := p.Info()
			if err == nil && info.Name == cutName {
				return errors.Join(change(device, p), p.Close())
			}
			if err := errors.Join(err, p.Close()); err != nil {
				return fmt.Errorf("cut link: look at program: %w", err)
			}
		}
		return change(device, nil)
	})
}

// Delete removes the link.
func (l *Link) Delete() error {
	return l.a.do(netlink.LinkDel)
}
