// Package local waits until a network namespace takes packets for an address of its own.
package local

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/netns"
)

const (
	// limit bounds the wait for a work item of the kernel, which takes
	// microseconds on an idle machine, and seconds on one that takes down many
	// namespaces: all of them share one queue (addrconf_wq).
	limit = 10 * time.Second
	// look is the longest time without a look: an event may tell of the
	// route before it can be looked up.
	look = 50 * time.Millisecond
)

// Await returns when a namespace takes packets for its address a. h is a handle in it.
//
// An IPv6 address can be bound as soon as it is set, but packets for it are let in
// by a route that a work item adds later, even without duplicate address detection
// (net/ipv6/addrconf.c, addrconf_dad_work). What arrives before is lost, so this
// is a courtesy: after limit it returns all the same.
func Await(ctx context.Context, ns *netns.NS, h *netlink.Handle, a netip.Addr) error {
	if !a.Is6() || isLocal(h, a) {
		return nil
	}
	var events *nl.NetlinkSocket
	err := ns.Do(func() (err error) {
		events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("await address %s: %w", a, err)
	}
	defer events.Close()
	pause := unix.NsecToTimeval(look.Nanoseconds())
	if err := events.SetReceiveTimeout(&pause); err != nil {
		return fmt.Errorf("await address %s: %w", a, err)
	}
	for began := time.Now(); !isLocal(h, a) && time.Since(began) < limit; {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("await address %s: %w", a, err)
		}
		// Whatever it says, it is a reason to look again; so are lost messages.
		if _, _, err := events.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EAGAIN) {
			return fmt.Errorf("await address %s: %w", a, err)
		}
	}
	return nil
}

// isLocal tells whether the kernel would deliver a packet for a in the namespace.
func isLocal(h *netlink.Handle, a netip.Addr) bool {
	routes, err := h.RouteGet(a.AsSlice())
	return err == nil && slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL })
}
