package membership

import (
	"net/netip"
	"time"
)

// Roles are what a host does for its installation.
type Roles struct {
	Directory bool // it runs a member of the directory
	CA        bool // it has the CA: it invites, lets in and renews
	Cordoned  bool // it takes no apps of other hosts
}

// Host is a host of the installation, as it is known here.
type Host struct {
	Roles

	Name         string
	Self         bool // it is this one
	Health       Health
	Addresses    []Address // in the order in which they are used
	Port         uint16    // of its control channel
	Version      string    // of its snapctld
	Key          string    // SHA-256 of its public key, hexadecimal
	Endpoints    int       // that it owns
	JoinedAt     time.Time
	Certificate  time.Time // when the certificate of this host ends; zero for another host
	Installation string

	Channels // empty for another host
}

// Channels are what carries packets from this host to others.
type Channels struct {
	Channel         string            // the kind that all are to have, or auto
	NetworkChannels map[string]string // likewise, for networks whose are to be of another kind
	ChannelKinds    []string          // the kinds that this host can make, the best first
	ChannelUnmet    []string          // why channels that are up are not of the kind Channel
	Private         []string          // networks that are not shared
}

// Health says what is known of a host.
type Health int

// What is known of a host.
const (
	Up      Health = iota + 1 // it was seen a moment ago
	Silent                    // it was not; its apps may run all the same
	Removed                   // nobody listens to it any more
)

// Address is where other hosts reach a host: on the network below the virtual ones.
type Address struct {
	Addr     netip.Addr // has no zone
	Device   string     // empty: any that has the address
	Priority int        // the lower, the sooner it is used
}

// Place is what a host says of itself when it comes to an installation.
type Place struct {
	Name      string    // empty: the kernel's host name
	Addresses []Address // none: those of the host's network devices
	Port      uint16    // of its control channel; 0: the usual one
}

// InitRequest says what installation is made.
type InitRequest struct {
	Place
	// Directory are the https URLs of an etcd cluster; none: a member runs beside this daemon.
	Directory []string
}

// JoinRequest says which installation is joined.
type JoinRequest struct {
	Place
	At    string // HOST:PORT of a host of the installation
	Token string // that [Invitation] has
	// OnConflict says what becomes of what this host and the installation both have.
	OnConflict OnConflict
}

// OnConflict says what becomes of networks, addresses and names that both this host and the
// installation that it joins have.
type OnConflict int

// What becomes of them.
const (
	// Refuse: this host does not join, and nothing of it has changed.
	Refuse OnConflict = iota
	// KeepPrivate: networks of this host in which there is a conflict stay its own, and no other
	// host reaches them.
	KeepPrivate
)

// Invitation lets one host join, once.
type Invitation struct {
	Token     string
	Addresses []netip.AddrPort // where it is accepted
	ExpiresAt time.Time
}

// Error is something that keeps a host from coming to an installation, or from leaving it. It is
// an errdefs.ErrFailedPrecondition.
type Error struct {
	Text   string
	Remedy string // what to do about it; may be empty
	Err    error  // what it comes of; may be nil
}

func (e *Error) Error() string {
	if e.Err == nil {
		return e.Text
	}
	return e.Text + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// FailedPrecondition is by what errdefs.Resolve knows the error.
func (e *Error) FailedPrecondition() {}
