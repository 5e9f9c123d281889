// Package ownership remembers which endpoints this host has in its installation, on the disk and
// whether or not the directory can be reached: the [Ledger] has a [Copy] of each.
//
//	        claim begins      the record names this host
//	(none) -------------> Claiming -------------------> Owned ---> (none), when it is released
//	                          |                           |  ^
//	                          +---------> Lost <----------+  |  it is claimed with the next epoch
//	                          another host has it         v  |
//	                                                  Forgotten
//	                                by a directory that was put back from a backup
//
// A copy may send as long as it has a permit for this boot of the host, see [directory.Permit]. It
// gets one when the directory has said that its record names this host. A new app whose address is
// one that this host may give out, and that is not in the ledger, gets one by itself, before its
// claim: nobody else can have the address. Therefore an address stays in the ledger until the
// directory has said that nobody has it.
//
// The model of the protocol is among the tests of package directory.
package ownership

import (
	"net/netip"

	"github.com/snapctl/snapctl/vem/directory"
)

// State is how a copy stands with the directory.
type State string

// The states of a copy.
const (
	Claiming State = "claiming" // it is not known yet whether its claim has happened
	Owned    State = "owned"
	// Forgotten is an endpoint of this host that the directory has forgotten, since it was put back
	// from a backup: it is made this host's once more, and goes on meanwhile.
	Forgotten State = "forgotten"
	Lost      State = "lost" // another host has the endpoint, or has ended it
	// Arriving is an endpoint that another host is about to give to this one, and that is not this host's yet.
	// Its epoch is the one that it will have here.
	Arriving State = "arriving"
)

// Copy is what this host has of an endpoint.
type Copy struct {
	// Endpoint is the record by which this host has it: its epoch is the copy's.
	Endpoint directory.Endpoint `json:"endpoint"`
	State    State              `json:"state"`
	Permit   directory.Permit   `json:"permit,omitzero"`
	// Kept is an endpoint that was taken over from a dead host: it stays this host's also while
	// no app here has it.
	Kept bool `json:"kept,omitempty"`
	// Restored is the last restoration of the directory at the time when it said that the endpoint is
	// this host's, or when that was asked of it: see [directory.Verdict].
	Restored string `json:"restored,omitempty"`
	// Now is the endpoint as it was when it was seen that this copy is lost; nil: there was none.
	Now *directory.Endpoint `json:"now,omitempty"`
}

// Allowed tells whether the copy may send in this boot of the host.
func (c Copy) Allowed(boot string) bool {
	return c.State != Lost && c.Permit.Allows(c.Endpoint.ID, c.Endpoint.Epoch, boot)
}

// Allow gives the copy a permit for a boot.
func (c *Copy) Allow(boot string) {
	c.Permit = directory.Permit{ID: c.Endpoint.ID, Epoch: c.Endpoint.Epoch, Boot: boot}
}

// Judge returns the copy as it is after the directory has said how it stands: see
// [directory.Session.Confirm]. id is a new one, for a claim that has not happened and is made anew.
//
// A restored directory may have forgotten an endpoint, or its last epochs, and with these that another
// host took it over. A copy that may send, and so has not been away, is this host's all the same, unless
// the directory has given the endpoint to somebody since. Of one that may not, it is not known what became
// of it after the backup: it stays as it is, also if the directory says that it is this host's. Only an
// address of the host itself is nobody else's.
func (c Copy) Judge(v directory.Verdict, id, boot string) Copy {
	switch {
	case v.Standing == directory.Owner && v.Restored != c.Restored && !c.Allowed(boot) && !c.Endpoint.OfHost():
		c.Permit = directory.Permit{}
	case v.Standing == directory.Owner:
		c.Endpoint, c.State, c.Permit, c.Now, c.Restored = *v.Now, Owned, v.Permit, nil, v.Restored
		c.Kept = c.Kept || v.Now.TakenFrom != ""
	case c.forgottenBy(v):
		if c.Allowed(boot) || c.Endpoint.OfHost() {
			c.State = Forgotten
		} else {
			c.Permit = directory.Permit{}
		}
	case v.Standing == directory.Pending:
		c.Permit = directory.Permit{}
	case c.State == Claiming && v.Now == nil:
		allowed := c.Allowed(boot)
		c.Endpoint.ID, c.Permit = id, directory.Permit{}
		if allowed {
			c.Allow(boot)
		}
	default:
		c.State, c.Permit, c.Kept, c.Now = Lost, directory.Permit{}, false, v.Now
	}
	return c
}

// forgottenBy tells whether the directory knows less of the endpoint than it did when it said that it
// is this host's: nothing, and it was restored since, or an earlier epoch.
func (c Copy) forgottenBy(v directory.Verdict) bool {
	switch {
	case c.State != Owned && c.State != Forgotten:
		return false
	case v.Now == nil:
		return v.Restored != c.Restored
	}
	return v.Standing == directory.Pending
}

// Knows tells whether a record is none that is newer than the copy, and than what the copy was lost to.
func (c Copy) Knows(e directory.Endpoint) bool {
	newest := c.Endpoint
	if c.Now != nil && c.Now.ID == c.Endpoint.ID {
		newest = *c.Now
	}
	return e.ID == newest.ID && e.Epoch <= newest.Epoch
}

// Spot is an IPv4 address of a network.
type Spot struct {
	Network string
	Addr    netip.Addr
}

// Spot returns where the copy's endpoint is.
func (c Copy) Spot() Spot { return SpotOf(c.Endpoint) }

// SpotOf returns where an endpoint is.
func SpotOf(e directory.Endpoint) Spot { return Spot{e.Network, e.Addr} }

// Taken is an endpoint that was taken over from a dead host.
type Taken struct {
	App     string
	Network string
	Addr    netip.Addr // IPv4
	Epoch   uint64
	From    string // host
	By      string // host, this one
}
