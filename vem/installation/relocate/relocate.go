// Package relocate has other hosts reach this one at other addresses than before, while apps of both
// talk to one another:
//
//	on the disk   where this host is   what the directory says
//	old           old                  old
//	old           old and new          old and new, those that are given up last
//	              until no channel begins at one that is given up
//	new           old and new          new
//	new           new                  new
//
// So no packet is sent to an address that is not taken any more, and none comes from one that the
// other host does not know yet. What fails, or ends with the daemon, before the new addresses are on
// the disk, never was: the next daemon is at the old ones, and tells the directory so. After that it
// is finished likewise.
package relocate

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/pause"
)

const (
	// last is added to the priority of an address that is given up.
	last = 1 << 20
	// settle is how long packets are still on their way to an address that no channel takes any
	// more.
	settle = time.Second
	// look is how often it is looked whether channels have moved.
	look = 50 * time.Millisecond
	// undoTime bounds how long it takes to be at the old addresses again.
	undoTime = 10 * time.Second
)

// A Move has this host move from some addresses to others. All fields are required.
type Move struct {
	Old, New []membership.Address
	// Use has this host be at some addresses, and at no others: it listens there, and channels may
	// begin there.
	Use func(context.Context, []membership.Address) error
	// Tell has the directory say that this host is there.
	Tell func(context.Context, []membership.Address) error
	// Keep writes that this host is there.
	Keep func(context.Context, []membership.Address) error
	// Stay returns the hosts that are alive and whose channels begin at one of some addresses.
	Stay func([]netip.Addr) []string
	// Wait is how long it may take until no channel does.
	Wait time.Duration
}

// Do moves. If it fails this host is where it was. An error that wraps [ErrTell] is none of that kind: the
// host has moved, and the directory has not been told of it.
func (m Move) Do(ctx context.Context) error {
	both, gone := m.both()
	err := m.Use(ctx, both)
	if err == nil {
		err = m.Tell(ctx, both)
	}
	if err == nil {
		err = m.leave(ctx, gone)
	}
	if err == nil {
		err = m.Keep(ctx, m.New)
	}
	if err != nil {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTime)
		defer cancel()
		return errors.Join(err, m.Use(late, m.Old), m.Tell(late, m.Old))
	}
	if err = m.Tell(ctx, m.New); err != nil {
		err = fmt.Errorf("%w: %w", ErrTell, err)
	}
	return errors.Join(err, m.Use(ctx, m.New))
}

// ErrTell says that a host is at other addresses, and others do not know it yet.
var ErrTell = errors.New("tell other hosts where this one is now")

// both are all addresses, those that are given up last, and these alone.
func (m Move) both() (all []membership.Address, gone []netip.Addr) {
	all = slices.Clone(m.New)
	for _, a := range m.Old {
		if !slices.ContainsFunc(m.New, func(n membership.Address) bool { return n.Addr == a.Addr }) {
			a.Priority += last
			all, gone = append(all, a), append(gone, a.Addr)
		}
	}
	return all, gone
}

// leave waits until no channel takes an address that is given up.
func (m Move) leave(ctx context.Context, gone []netip.Addr) error {
	if len(gone) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, m.Wait)
	defer cancel()
	moved := false
	for hosts := m.Stay(gone); len(hosts) > 0; hosts = m.Stay(gone) {
		moved = true
		if pause.For(ctx, look, nil) {
			continue
		}
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return ctx.Err()
		}
		return &membership.Error{
			Text:   fmt.Sprintf("the channels to host %s do not go from the new addresses within %s", strings.Join(hosts, ", "), m.Wait),
			Remedy: "let UDP packets through to the port of the probes, one above that of the control channel: snapctl host show HOST tells which ways work",
		}
	}
	if moved && !pause.For(ctx, settle, nil) {
		return ctx.Err()
	}
	return nil
}
