// Package rule has the rule by which two hosts find of which kind the channel between them is. Both of them find the
// same, from what each of them offers and was told to have (message.Offer.Given), so that it does not matter which one
// asks:
//
//  1. It is one that both offer.
//  2. Of those, one that either host was told to have comes first. If they were told different
//     ones, the one that comes later in the order direct, tunnel, vxlan, wireguard counts: it takes
//     less of hosts and of the network between them, and tells less to that network.
//  3. Else the one that comes first in that order: it is the fastest.
//
// A kind that does not come up on a host is left out of what that host offers, for a while.
package rule

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/control/message"
)

// Kinds returns the kinds that two hosts both offer, those that the channel is to be of first.
func Kinds(mine, theirs []message.Offer) (names []string) {
	order := make(map[string]int) // by name: the lower, the sooner
	for _, o := range mine {
		i := slices.IndexFunc(theirs, func(t message.Offer) bool { return t.Module == o.Module })
		if i < 0 {
			continue
		}
		names = append(names, o.Module)
		k, _ := channel.ParseKind(o.Module)
		if order[o.Module] = int(k); o.Given || theirs[i].Given {
			order[o.Module] = -int(k)
		}
	}
	slices.SortStableFunc(names, func(a, b string) int { return cmp.Compare(order[a], order[b]) })
	return names
}

// Of returns the offer of a kind, or a zero one.
func Of(list []message.Offer, kind string) message.Offer {
	i := slices.IndexFunc(list, func(o message.Offer) bool { return o.Module == kind })
	if i < 0 {
		return message.Offer{}
	}
	return list[i]
}

// Given is the kind that whoever offers was told to have; "": none.
func Given(list []message.Offer) string {
	for _, o := range list {
		if o.Given {
			return o.Module
		}
	}
	return ""
}

// Suits tells whether a channel is of the kind that the rule gives, as far as this host knows what
// the other one was told.
func Suits(c message.Channel, mine []message.Offer) bool {
	theirs := slices.Clone(mine)
	for i := range theirs {
		theirs[i].Given = theirs[i].Module == c.Given
	}
	names := Kinds(mine, theirs)
	return len(names) > 0 && names[0] == c.Module
}

// Reaches tells whether a host that offers something can still be reached by a channel.
func Reaches(offers []message.Offer, c message.Channel) bool {
	return slices.ContainsFunc(offers, func(o message.Offer) bool {
		return o.Module == c.Module && bytes.Equal(o.Parameters, c.Parameters) && slices.Contains(o.Underlay, c.Remote)
	})
}

// Likely is what a host offers that is at some addresses and makes all that this one does.
func Likely(mine []message.Offer, at []netip.Addr) (theirs []message.Offer) {
	for _, o := range mine {
		o.Underlay, o.Parameters, o.Given = nil, nil, false
		for _, a := range at {
			o.Underlay = append(o.Underlay, netip.AddrPortFrom(a, 0))
		}
		theirs = append(theirs, o)
	}
	return theirs
}
