package fabric

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
)

// localLimit bounds the wait for a work item of the kernel, which takes microseconds
// on an idle machine.
const localLimit = 10 * time.Second

// awaitLocal returns when the namespace takes packets for its address a.
//
// An IPv6 address can be bound as soon as it is set, but packets for it are let in
// by a route that a work item adds later, even without duplicate address detection
// (net/ipv6/addrconf.c, addrconf_dad_work). What arrives before is lost.
func (s *side) awaitLocal(ctx context.Context, a netip.Addr) error {
	if !a.Is6() || s.isLocal(a) {
		return nil
	}
	var events *nl.NetlinkSocket
	err := s.ns.Do(func() (err error) {
		events, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_IPV6_ROUTE)
		return err
	})
	if err != nil {
		return fmt.Errorf("await address %s: %w", a, err)
	}
	defer events.Close()
	limit := unix.NsecToTimeval(localLimit.Nanoseconds())
	if err := events.SetReceiveTimeout(&limit); err != nil {
		return fmt.Errorf("await address %s: %w", a, err)
	}
	for !s.isLocal(a) {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("await address %s: %w", a, err)
		}
		// Whatever it says, it is a reason to look again; so are lost messages.
		if _, _, err := events.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("await address %s: %w", a, err)
		}
	}
	return nil
}

// isLocal tells whether the kernel would deliver a packet for a in the namespace.
func (s *side) isLocal(a netip.Addr) bool {
	routes, err := s.nl.RouteGet(a.AsSlice())
	return err == nil && slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL })
}
