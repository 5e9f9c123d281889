package installation

import (
	"context"
	"fmt"
	"slices"

	"github.com/snapctl/snapctl/vem/installation/choice"
	"github.com/snapctl/snapctl/vem/membership"
)

// choice is which kinds the channels of this host are to be of, as SetChannel has it.
func (i *Installation) choice() choice.Dir { return choice.Dir(i.opt.Dir) }

// SetChannel has all channels of this host be of a kind, or of the best one that both hosts make
// for [choice.Auto], from now on and after a restart; or those of one network, for which
// [choice.Auto] means that they are as all others. Channels that are up change under traffic. Those
// that other hosts have be of another kind are told in ChannelUnmet. It returns a
// [*membership.Error] if this release or this host makes none of that kind, and if a channel that
// is up could not be changed: then the others are.
func (i *Installation) SetChannel(ctx context.Context, network, name string) (*membership.Host, error) {
	p := i.part.Load()
	if p == nil {
		return nil, &membership.Error{
			Text:   "this host takes part in no installation",
			Remedy: "make one with \"snapctl host init\", or join one with \"snapctl host join\"",
		}
	}
	k := choice.Kind(name)
	switch {
	case k == choice.Unknown:
		return nil, &membership.Error{Text: fmt.Sprintf("%q is no kind of channel that this release makes", name), Remedy: "it is auto, direct, tunnel, vxlan or wireguard"}
	case k != 0 && !slices.Contains(p.mesh.Kinds(), k):
		return nil, &membership.Error{Text: fmt.Sprintf("this host makes no channels of kind %s: its kernel, or the rights of snapctld, allow no BPF for that", name), Remedy: "take vxlan, wireguard or auto"}
	}
	if err := i.choice().Write(network, name); err != nil {
		return nil, err
	}
	if err := p.mesh.SetGiven(ctx, network, k); err != nil {
		return nil, &membership.Error{
			Text: "channels are " + name + " from now on, but not all that are up could be changed", Err: err,
			Remedy: "they are when both hosts reach each other: see snapctl host ls, and snapctl vem channels",
		}
	}
	return i.self(ctx)
}

// List returns the hosts of the installation, see [membership.Membership.List]. If the directory
// can't be asked now it returns what this host knows of them.
func (i *Installation) List(ctx context.Context) ([]membership.Host, error) {
	list, err := i.hosts(ctx)
	for n := range list {
		if list[n].Self {
			i.tell(&list[n])
		}
	}
	return list, err
}

// self is this host as List has it.
func (i *Installation) self(ctx context.Context) (*membership.Host, error) {
	list, err := i.List(ctx)
	for n := range list {
		if list[n].Self {
			return &list[n], err
		}
	}
	return nil, err
}

// tell says what channels this host has.
func (i *Installation) tell(h *membership.Host) {
	p := i.part.Load()
	names, err := i.choice().Read()
	if p == nil || err != nil {
		return
	}
	h.Channel = names[""]
	delete(names, "")
	h.NetworkChannels = names
	for _, k := range p.mesh.Kinds() {
		h.ChannelKinds = append(h.ChannelKinds, k.String())
	}
	h.ChannelUnmet = p.mesh.Peering().Unmet()
}
