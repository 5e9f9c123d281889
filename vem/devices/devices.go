// Package devices finds the addresses of this host's network devices that other hosts may reach.
package devices

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/mesh"
	"github.com/snapctl/snapctl/vem/netlist"
	"github.com/snapctl/snapctl/vem/pause"
)

// Addresses are those of this host's network devices at which others may reach it: not those of
// its virtual networks.
func Addresses() ([]membership.Address, error) {
	var list []membership.Address
	err := eachAddress(func(d *netlink.LinkAttrs, p netip.Prefix) {
		a := p.Addr()
		if a.IsGlobalUnicast() && !strings.HasPrefix(d.Name, "snap-") {
			list = append(list, membership.Address{Addr: a, Device: d.Name})
		}
	})
	return list, err
}

// Watch tells where this host is, of these addresses, now and whenever that changes, until ctx ends:
// devices and addresses may come after the daemon, and go. What the kernel tells of is looked at at
// once, and all of it each time that again has passed.
func Watch(ctx context.Context, again time.Duration, log *slog.Logger, list func() []membership.Address, tell func(context.Context, []mesh.Underlay) error) {
	news := make(chan struct{}, 1)
	var listening sync.WaitGroup
	defer listening.Wait()
	listening.Go(func() { listen(ctx, news, log) })
	look := time.NewTicker(again)
	defer look.Stop()
	var told []mesh.Underlay
	for {
		if now := Underlay(list()); !slices.Equal(now, told) {
			if err := tell(ctx, now); err != nil {
				log.WarnContext(ctx, "use the addresses of this host for channels", slog.Any("error", err))
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

// listen puts a token into news whenever a device or an address has changed, until ctx ends. What it
// misses is for whoever looks every now and then.
func listen(ctx context.Context, news chan<- struct{}, log *slog.Logger) {
	for ctx.Err() == nil {
		err := hear(ctx, func() {
			select {
			case news <- struct{}{}:
			default:
			}
		})
		if ctx.Err() == nil {
			log.WarnContext(ctx, "listen for changes of network devices", slog.Any("error", err))
		}
		pause.For(ctx, 5*time.Second, nil)
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

// Underlay is where channels may begin: each of these addresses that there is, with its device and
// link.
func Underlay(list []membership.Address) (found []mesh.Underlay) {
	links := make(map[netip.Addr]mesh.Underlay)
	_ = eachAddress(func(d *netlink.LinkAttrs, p netip.Prefix) { // what can't be read has no link
		if d.RawFlags&unix.IFF_RUNNING != 0 { // it has a carrier
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

// Missing are those of some addresses that no device has which is up, or not the one that is named.
func Missing(list []membership.Address) (missing []membership.Address, err error) {
	missing = slices.Clone(list)
	err = eachAddress(func(d *netlink.LinkAttrs, p netip.Prefix) {
		missing = slices.DeleteFunc(missing, func(a membership.Address) bool {
			return a.Addr == p.Addr() && (a.Device == "" || a.Device == d.Name)
		})
	})
	return missing, err
}

// eachAddress calls fn with all addresses of devices that are up.
func eachAddress(fn func(d *netlink.LinkAttrs, p netip.Prefix)) error {
	links, err := netlist.Links(netlist.Here())
	if err != nil {
		return fmt.Errorf("list network devices: %w", err)
	}
	addrs, err := netlist.Addrs(netlist.Here())
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, l := range links {
		d := l.Attrs()
		if d.Flags&net.FlagUp == 0 || d.Flags&net.FlagLoopback != 0 {
			continue
		}
		for _, a := range addrs {
			if ip, ok := netip.AddrFromSlice(a.IP); ok && a.LinkIndex == d.Index {
				mask := a.Mask
				if a.Peer != nil { // the other end of a link of two has the prefix (netlink's parseAddr)
					mask = a.Peer.Mask
				}
				ones, _ := mask.Size()
				fn(d, netip.PrefixFrom(ip.Unmap(), ones))
			}
		}
	}
	return nil
}
