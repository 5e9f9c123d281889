// Package members has hosts of an installation as the API has them, and changes this one.
package members

import (
	"context"
	"fmt"
	"math"
	"net/netip"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/vem/directory/conflict"
	"github.com/snapctl/snapctl/vem/membership"
)

// Self changes this host.
type Self interface {
	// SetChannel has the channels of a network, "" for all, be of a kind.
	SetChannel(ctx context.Context, network, kind string) (*membership.Host, error)
	// SetAddresses has other hosts reach this one at these addresses alone; none: at those of its
	// network devices. Notes say what may be wrong with them.
	SetAddresses(ctx context.Context, list []membership.Address) (h *membership.Host, notes []string, err error)
}

// Set does what a request says.
func Set(ctx context.Context, self Self, req *api.SetHostRequest) (*api.Host, error) {
	channel, find := req.GetChannel() != "", req.GetFindAddresses()
	switch moves := len(req.GetAddresses()) > 0; {
	case moves && find || channel && (moves || find):
		return nil, fmt.Errorf("change one thing at a time: %w", errdefs.ErrInvalidArgument)
	case channel:
		h, err := self.SetChannel(ctx, req.GetNetwork(), req.GetChannel())
		return Show(h), err
	case !moves && !find:
		return nil, fmt.Errorf("nothing is to be changed: %w", errdefs.ErrInvalidArgument)
	}
	p, err := Place("", req.GetAddresses(), 0)
	if err != nil {
		return nil, err
	}
	h, notes, err := self.SetAddresses(ctx, p.Addresses)
	if err != nil {
		return nil, err
	}
	res := Show(h)
	res.Notes = notes
	return res, nil
}

// Conflicts are conflicts with what can be done about each.
func Conflicts(list []conflict.Conflict) (all []*api.HostConflict) {
	for _, c := range list {
		all = append(all, &api.HostConflict{Kind: string(c.Kind), Mine: c.Mine, There: c.There, Network: c.Network, Text: c.Text, Remedy: c.Remedy()})
	}
	return all
}

// Place reads what a host says of itself.
func Place(name string, addresses []*api.HostAddress, port uint32) (membership.Place, error) {
	p := membership.Place{Name: name, Port: uint16(port)}
	if port > math.MaxUint16 {
		return p, fmt.Errorf("port %d of the control channel: %w", port, errdefs.ErrInvalidArgument)
	}
	for _, a := range addresses {
		ip, err := netip.ParseAddr(a.GetAddress())
		if err != nil {
			return p, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		p.Addresses = append(p.Addresses, membership.Address{Addr: ip.Unmap(), Device: a.GetDevice(), Priority: int(a.GetPriority())})
	}
	return p, nil
}

// Show is a host as the API has it; nil if there is none.
func Show(h *membership.Host) *api.Host {
	if h == nil {
		return nil
	}
	res := &api.Host{
		Name: h.Name, Self: h.Self, Port: uint32(h.Port), Version: h.Version, Directory: h.Directory, Key: h.Key, Endpoints: int32(h.Endpoints),
		Installation: h.Installation, Ca: h.CA, Cordoned: h.Cordoned, Channel: h.Channel, NetworkChannels: h.NetworkChannels, ChannelKinds: h.ChannelKinds, ChannelUnmet: h.ChannelUnmet, PrivateNetworks: h.Private,
		Health: map[membership.Health]api.HostHealth{
			membership.Up: api.HostHealth_HOST_HEALTH_UP, membership.Silent: api.HostHealth_HOST_HEALTH_SILENT, membership.Removed: api.HostHealth_HOST_HEALTH_REMOVED,
		}[h.Health],
	}
	for _, a := range h.Addresses {
		res.Addresses = append(res.Addresses, &api.HostAddress{Address: a.Addr.String(), Device: a.Device, Priority: int32(a.Priority)})
	}
	if !h.JoinedAt.IsZero() {
		res.JoinedAt = timestamppb.New(h.JoinedAt)
	}
	if !h.Certificate.IsZero() {
		res.CertificateUntil = timestamppb.New(h.Certificate)
	}
	return res
}
