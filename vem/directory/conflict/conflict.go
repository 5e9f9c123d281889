// Package conflict finds what a host has made while it was alone, and that can't be so in the
// installation which it is about to join: all of it, with what can be done about each.
package conflict

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/directory"
)

// Alone is what a host has that is not in the directory yet.
type Alone struct {
	Host     directory.Host // as it would be entered
	Networks []directory.Network
	// Endpoints need Network, Addr and App only.
	Endpoints []directory.Endpoint
}

// Kind is what is in conflict.
type Kind string

// The kinds of conflicts.
const (
	HostName  Kind = "host-name" // another host is called that
	Prefixes  Kind = "prefixes"  // the network has other prefixes there
	Overlap   Kind = "overlap"   // the network's prefixes overlap those of another one
	Underlay  Kind = "underlay"  // a network's prefix has the address of a host on the real network
	Address   Kind = "address"   // another app has the address
	BlockHost Kind = "block"     // the address is one of those that another host gives out
	AppName   Kind = "app-name"  // another app is called that
)

// Choice is what can be done about a conflict, on the host that joins.
type Choice string

// What can be done. The host does one of them for each conflict, and asks again.
const (
	// RenameHost: join under another name.
	RenameHost Choice = "rename-host"
	// RemoveOther: remove that host from the installation first, if it is gone for good.
	RemoveOther Choice = "remove-other-host"
	// RenameNetwork: give this host's network another name; it keeps its prefixes.
	RenameNetwork Choice = "rename-network"
	// Renumber: give the apps of this host's network addresses of the installation's network of
	// that name, or of other prefixes. Their connections end.
	Renumber Choice = "renumber-network"
	// NewAddress: give the app another address. Its connections end.
	NewAddress Choice = "new-address"
	// RenameApp: give the app another name. Nothing else about it changes.
	RenameApp Choice = "rename-app"
	// RemoveApp: remove the app of this host.
	RemoveApp Choice = "remove-app"
	// MoveUnderlay: use another address of the host between hosts.
	MoveUnderlay Choice = "other-underlay"
)

// Conflict is one thing that this host has and that can't be so.
type Conflict struct {
	Kind Kind `json:"kind"`
	// Mine is what it is about on this host, and There what it meets: names of hosts, networks or
	// apps, or addresses, to be shown.
	Mine  string `json:"mine"`
	There string `json:"there"`
	// Network is this host's network that it is in; empty if it is in none of them. If no other
	// host shares that network, there is no conflict.
	Network string `json:"network,omitempty"`
	// Text says it in one sentence.
	Text string `json:"text"`
	// Choices are what can be done, the one first that costs least.
	Choices []Choice `json:"choices"`
}

// There is what the directory has.
type There struct {
	Hosts     []directory.Host
	Networks  []directory.Network
	Endpoints []directory.Endpoint
	Blocks    directory.Blocks
}

// Find reads the directory and returns all conflicts of a host that is about to join. Others may
// make more until it has joined: what it then enters is refused one by one.
func Find(ctx context.Context, d *directory.Directory, alone Alone) ([]Conflict, error) {
	var t There
	var err error
	if t.Hosts, err = d.Hosts(ctx); err == nil {
		t.Networks, err = d.Networks(ctx)
	}
	if err == nil {
		t.Endpoints, err = d.Endpoints(ctx)
	}
	if err == nil {
		t.Blocks, err = d.Blocks(ctx, "")
	}
	if err != nil {
		return nil, fmt.Errorf("look for conflicts: %w", err)
	}
	return Between(alone, t), nil
}

// Between returns all conflicts between what a host has and what is there, in the order of kinds
// as above.
func Between(alone Alone, there There) []Conflict {
	return slices.Concat(
		hosts(alone, there), networks(alone, there), underlays(alone, there),
		addresses(alone, there), blocks(alone, there), apps(alone, there),
	)
}

func hosts(alone Alone, there There) (list []Conflict) {
	for _, h := range there.Hosts {
		if h.Name != alone.Host.Name || h.Key == alone.Host.Key && !h.Removed {
			continue
		}
		c := Conflict{HostName, alone.Host.Name, h.Name, "", fmt.Sprintf("another host of the installation is called %s", h.Name), []Choice{RenameHost, RemoveOther}}
		if h.Removed {
			c.Text, c.Choices = fmt.Sprintf("a host called %s was removed from the installation", h.Name), []Choice{RenameHost}
		}
		list = append(list, c)
	}
	return list
}

func networks(alone Alone, there There) (list []Conflict) {
	for _, n := range alone.Networks {
		for _, m := range there.Networks {
			if !n.Meets(m) {
				continue
			}
			err := directory.NetworkError{Wanted: n, There: m}
			c := Conflict{Overlap, n.Name, m.Name, n.Name, err.Error(), []Choice{Renumber}}
			if n.Name == m.Name {
				c.Kind, c.Choices = Prefixes, []Choice{RenameNetwork, Renumber}
			}
			list = append(list, c)
		}
	}
	return list
}

// underlays finds addresses of the real network in virtual ones: of this host in networks of the
// installation, and of other hosts in networks of this host.
func underlays(alone Alone, there There) (list []Conflict) {
	find := func(h directory.Host, all []directory.Network, mine bool, choice Choice) {
		for _, u := range h.Underlays {
			for _, n := range all {
				if !n.Prefix4.Contains(u.Addr) && !n.Prefix6.Contains(u.Addr) {
					continue
				}
				text := fmt.Sprintf("host %s has the address %s on the real network, and network %s has it in its prefixes", h.Name, u.Addr, n.Name)
				c := Conflict{Underlay, u.Addr.String(), n.Name, "", text, []Choice{choice}}
				if mine {
					c.Network = n.Name
				}
				list = append(list, c)
			}
		}
	}
	find(alone.Host, there.Networks, false, MoveUnderlay)
	for _, h := range there.Hosts {
		if h.Name != alone.Host.Name && !h.Removed {
			find(h, alone.Networks, true, Renumber)
		}
	}
	return list
}

// spot is an address of a network.
type spot struct {
	network string
	addr    netip.Addr
}

func addresses(alone Alone, there There) (list []Conflict) {
	has := make(map[spot]directory.Endpoint)
	for _, e := range there.Endpoints {
		has[spot{e.Network, e.Addr}] = e
	}
	for _, e := range alone.Endpoints {
		other, ok := has[spot{e.Network, e.Addr}]
		if !ok || alone.owns(there, other, e) {
			continue
		}
		text := (&directory.TakenError{There: other}).Error()
		list = append(list, Conflict{Address, e.App, other.App, e.Network, text, []Choice{NewAddress, RemoveApp}})
	}
	return list
}

// owns tells whether an endpoint in the directory is one of this host, which has joined halfway
// before.
func (a Alone) owns(there There, other, mine directory.Endpoint) bool {
	joined := slices.ContainsFunc(there.Hosts, func(h directory.Host) bool { return h.Name == a.Host.Name && h.Key == a.Host.Key })
	return joined && other.Owner == a.Host.Name && other.App == mine.App && other.ID == mine.ID
}

func blocks(alone Alone, there There) (list []Conflict) {
	for _, e := range alone.Endpoints {
		b, ok := there.Blocks.Find(e.Network, e.Addr)
		if !ok || b.Host == alone.Host.Name {
			continue
		}
		text := (&directory.BlockError{Addr: e.Addr, Block: b}).Error()
		list = append(list, Conflict{BlockHost, e.App, b.Prefix.String(), e.Network, text, []Choice{NewAddress, RemoveApp}})
	}
	return list
}

func apps(alone Alone, there There) (list []Conflict) {
	has := make(map[string]directory.Endpoint)
	for _, e := range there.Endpoints {
		has[e.App] = e
	}
	for _, e := range alone.Endpoints {
		other, ok := has[e.App]
		if !ok || alone.owns(there, other, e) {
			continue
		}
		text := fmt.Sprintf("there is an app %s in the installation, on host %s with endpoint %s", e.App, other.Owner, other)
		list = append(list, Conflict{AppName, e.App, other.App, e.Network, text, []Choice{RenameApp, RemoveApp}})
	}
	return list
}

// Error is that a host can't join as it is: what it has made alone is in conflict with what there
// is. Nothing of that host has changed.
type Error struct {
	List []Conflict
}

func (e *Error) Error() string {
	if len(e.List) == 1 {
		return "join: " + e.List[0].Text
	}
	return fmt.Sprintf("join: this host and the installation have %d things both, of which there can be one only", len(e.List))
}

// Private are the networks of a host that no other host may share, for there to be no conflict,
// and rest are the conflicts that there are all the same.
func Private(list []Conflict) (networks []string, rest []Conflict) {
	for _, c := range list {
		switch {
		case c.Network == "":
			rest = append(rest, c)
		case !slices.Contains(networks, c.Network):
			networks = append(networks, c.Network)
		}
	}
	slices.Sort(networks)
	return networks, rest
}

// Remedy says what to type, on the host that joins.
func (c Conflict) Remedy() string {
	var text string
	switch c.Kind {
	case HostName:
		text = "--name gives this host another name"
	case Address, BlockHost, AppName:
		text = fmt.Sprintf("snapctl snapshot %[1]s --stop, and snapctl rm %[1]s; when this host has joined, snapctl restore SNAPSHOT --as OTHER; or ", c.Mine)
	case Underlay:
		if c.Network == "" {
			text = "--address has other hosts reach this one at another address"
		}
	case Prefixes, Overlap:
	}
	if c.Network != "" {
		text += "--on-conflict keep-private keeps network " + c.Network + " for this host alone"
	}
	return text
}
