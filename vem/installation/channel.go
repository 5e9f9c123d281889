package installation

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/membership"
	"github.com/snapctl/snapctl/vem/mesh"
)

// unknownKind is one that a newer release was told to have all channels be of. This one makes no
// channels then: another kind may be what was to be avoided.
const unknownKind channel.Kind = -1

func (i *Installation) choice() mesh.Choice { return mesh.Choice(filepath.Join(i.opt.Dir, "channel")) }

// only is the kind that all channels are to be of; zero: the best one.
func only(name string) channel.Kind {
	if name == mesh.AutoChannel {
		return 0
	}
	if k, ok := channel.ParseKind(name); ok {
		return k
	}
	return unknownKind
}

// onlyChannel is the kind that all channels of this host are to be of, as SetChannel has it.
func (i *Installation) onlyChannel(ctx context.Context) (channel.Kind, error) {
	name, err := i.choice().Read()
	if err != nil {
		return 0, err
	}
	k := only(name)
	if k == unknownKind {
		i.opt.Log.ErrorContext(ctx, "this host has no channels to others, since this release does not make those that it is to have; snapctl host set --channel gives it others", slog.String("channel", name))
	}
	return k, nil
}

// SetChannel has all channels of this host be of a kind, or of the best one that both hosts make
// for [mesh.AutoChannel], from now on and after a restart. Channels that are up change under traffic.
// It returns a [*membership.Error] if this release or this host makes none of that kind, and if a
// channel that is up could not be changed: then the others are.
func (i *Installation) SetChannel(ctx context.Context, name string) (*membership.Host, error) {
	p := i.part.Load()
	if p == nil {
		return nil, &membership.Error{
			Text:   "this host takes part in no installation",
			Remedy: "make one with \"snapctl host init\", or join one with \"snapctl host join\"",
		}
	}
	k := only(name)
	switch {
	case k == unknownKind:
		return nil, &membership.Error{Text: fmt.Sprintf("%q is no kind of channel that this release makes", name), Remedy: "it is auto, direct, tunnel, vxlan or wireguard"}
	case k != 0 && !slices.Contains(p.mesh.Kinds(), k):
		return nil, &membership.Error{Text: fmt.Sprintf("this host makes no channels of kind %s: its kernel, or the rights of snapctld, allow no BPF for that", name), Remedy: "take vxlan, wireguard or auto"}
	}
	if err := i.choice().Write(name); err != nil {
		return nil, err
	}
	if err := p.mesh.SetOnly(ctx, k); err != nil {
		return nil, &membership.Error{
			Text: "channels are " + name + " from now on, but not all that are up could be changed", Err: err,
			Remedy: "see snapctl host show on the other host: it may be set to another kind",
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
	name, err := i.choice().Read()
	if p == nil || err != nil {
		return
	}
	h.Channel = name
	for _, k := range p.mesh.Kinds() {
		h.ChannelKinds = append(h.ChannelKinds, k.String())
	}
}
