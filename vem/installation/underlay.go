package installation

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/pause"
)

// addresses are those of this host's network devices at which others may reach it: not those of
// its virtual networks.
func addresses() ([]membership.Address, error) {
	var list []membership.Address
	err := eachAddress(func(d net.Interface, p netip.Prefix) {
		a := p.Addr()
		if a.IsGlobalUnicast() && !strings.HasPrefix(d.Name, "snap-") {
			list = append(list, membership.Address{Addr: a, Device: d.Name})
		}
	})
	return list, err
}

// watchUnderlay tells the mesh where this host is, until ctx ends: devices and addresses may come
// after the daemon, and go. What the kernel tells of is looked at at once.
func (i *Installation) watchUnderlay(ctx context.Context, p *part) {
	news := make(chan struct{}, 1)
	i.opt.Run(func(ctx context.Context) { i.listen(ctx, news) })
	look := time.NewTicker(again)
	defer look.Stop()
	var told []mesh.Underlay
	for {
		if now := underlay(i.placeNow().Addresses); !slices.Equal(now, told) {
			if err := p.mesh.SetUnderlay(ctx, now); err != nil {
				i.opt.Log.WarnContext(ctx, "use the addresses of this host for channels", slog.Any("error", err))
				told = nil // it is tried again
			} else {
				told = now
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-news:
		case <-look.C:
		}
	}
}

// listen puts a token into news whenever a device or an address has changed, until ctx ends.
func (i *Installation) listen(ctx context.Context, news chan<- struct{}) {
	for ctx.Err() == nil {
		err := hear(ctx, func() {
			select {
			case news <- struct{}{}:
			default:
			}
		})
		if ctx.Err() == nil { // what it missed is seen by whoever looks from time to time
			i.opt.Log.WarnContext(ctx, "listen for changes of network devices", slog.Any("error", err))
		}
		pause.For(ctx, again, nil)
	}
}

// hear calls fn after each change of devices and addresses (rtnetlink(7)). It returns when ctx
// ends, or with an error.
func hear(ctx context.Context, fn func()) error {
	s, err := nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR)
	if err != nil {
		return fmt.Errorf("open a netlink socket: %w", err)
	}
	defer s.Close()
	defer context.AfterFunc(ctx, s.Close)()
	for {
		if _, _, err := s.Receive(); err != nil {
			return fmt.Errorf("read a netlink socket: %w", err)
		}
		fn()
	}
}

// underlay is where channels may begin: each of these addresses that there is, with its device and
// link.
func underlay(list []membership.Address) (found []mesh.Underlay) {
	links := make(map[netip.Addr]mesh.Underlay)
	_ = eachAddress(func(d net.Interface, p netip.Prefix) { // what can't be read has no link
		if d.Flags&net.FlagRunning != 0 { // it has a carrier
			links[p.Addr()] = mesh.Underlay{Device: d.Name, Index: d.Index, MTU: d.MTU, Prefix: p}
		}
	})
	for _, a := range list {
		if u, ok := links[a.Addr]; ok && (a.Device == "" || a.Device == u.Device) {
			u.Priority = a.Priority
			found = append(found, u)
		}
	}
	return found
}

// eachAddress calls fn with all addresses of devices that are up.
func eachAddress(fn func(d net.Interface, p netip.Prefix)) error {
	devices, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	for _, d := range devices {
		if d.Flags&net.FlagUp == 0 || d.Flags&net.FlagLoopback != 0 {
			continue
		}
		all, err := d.Addrs()
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", d.Name, err)
		}
		for _, a := range all {
			if p, err := netip.ParsePrefix(a.String()); err == nil {
				fn(d, netip.PrefixFrom(p.Addr().Unmap(), p.Bits()))
			}
		}
	}
	return nil
}
