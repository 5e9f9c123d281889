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

const (
	// localLimit bounds the wait for a work item of the kernel, which takes
	// microseconds on an idle machine, and seconds on one that takes down many
	// namespaces: all of them share one queue (addrconf_wq).
	localLimit = 10 * time.Second
	// localLook is the longest time without a look: an event may tell of the
	// route before it can be looked up.
	localLook = 50 * time.Millisecond
)

// awaitLocal returns when the namespace takes packets for its address a.
//
// An IPv6 address can be bound as soon as it is set, but packets for it are let in
// by a route that a work item adds later, even without duplicate address detection
// (net/ipv6/addrconf.c, addrconf_dad_work). What arrives before is lost, so this
// is a courtesy: after localLimit it returns all the same.
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
	limit := unix.NsecToTimeval(localLook.Nanoseconds())
	if err := events.SetReceiveTimeout(&limit); err != nil {
		return fmt.Errorf("await address %s: %w", a, err)
	}
	for began := time.Now(); !s.isLocal(a) && time.Since(began) < localLimit; {
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
func (s *side) isLocal(a netip.Addr) bool {
	routes, err := s.nl.RouteGet(a.AsSlice())
	return err == nil && slices.ContainsFunc(routes, func(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL })
}
