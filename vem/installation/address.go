package installation

import (
	"context"
	"errors"
	"net/netip"

	"github.com/snapctl/snapctl/vem/devices"
	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/installation/relocate"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/probe"
)

// SetAddresses has other hosts reach this one at these addresses alone, from now on; none: at those of
// its network devices. Channels move under traffic. Notes say what may be wrong. It returns a
// [*membership.Error], and this host is where it was, if that can't be.
func (i *Installation) SetAddresses(ctx context.Context, list []membership.Address) (h *membership.Host, notes []string, err error) {
	p, err := i.running()
	if err != nil {
		return nil, nil, err
	}
	if !i.moving.TryLock() {
		return nil, nil, &membership.Error{Text: "the addresses of this host are being changed already", Remedy: "try again when that is done"}
	}
	defer i.moving.Unlock()
	if len(list) == 0 {
		at, err := i.Complete(membership.Place{Name: p.identity.Host()})
		if err != nil {
			return nil, nil, err
		}
		list = at.Addresses
	}
	alive := func() map[string][]netip.AddrPort { return relocate.Alive(p.cache.Load(), p.identity.Host()) }
	if err = errors.Join(relocate.Check(list), i.upkeep.Keeps(list)); err == nil {
		notes, err = relocate.Answered(ctx, list, alive(), p.tls)
	}
	if err != nil {
		return nil, nil, err
	}
	defer i.trying.Store(nil)
	err = relocate.Move{
		Old: i.placeNow().Addresses, New: list, Keep: i.Membership.SetAddresses, Wait: max(30*probe.DefaultInterval, 30*i.opt.ProbeInterval), // a way is probed for a while before it is trusted
		Stay: func(at []netip.Addr) []string { return relocate.Stay(p.mesh.Peering(), alive(), at) },
		Use: func(ctx context.Context, at []membership.Address) error {
			i.trying.Store(&at)
			err := p.doors.Set(ctx, i.placeNow())
			return errors.Join(err, p.mesh.SetUnderlay(ctx, devices.Underlay(at)))
		},
		Tell: func(ctx context.Context, at []membership.Address) error {
			_, err := i.Update(ctx, func(h *directory.Host) { h.Underlays = membership.Underlays(at) })
			return err
		},
	}.Do(ctx)
	if err != nil {
		p.Run(i.upkeep.Announce) // what could not be said
	}
	if errors.Is(err, relocate.ErrTell) {
		notes, err = append(notes, "the directory can't be asked now: other hosts are told as soon as it can"), nil
	}
	if err != nil {
		return nil, nil, err
	}
	h, err = i.self(ctx)
	return h, notes, err
}
