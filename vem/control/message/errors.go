package message

import (
	"fmt"
	"net/netip"
)

// RefusedError is that a host will not do what it was asked for.
type RefusedError struct {
	By  string // the host
	Why string
	// Hint says what to do; "": nothing is known that helps.
	Hint string
}

func (e *RefusedError) Error() string {
	if e.By == "" {
		return e.Why
	}
	return fmt.Sprintf("host %s refuses: %s", e.By, e.Why)
}

// Remedy says what to do.
func (e *RefusedError) Remedy() string { return e.Hint }

// VersionError is that two hosts have no version of the protocol in common.
type VersionError struct {
	Host         string // the other one
	Ours, Theirs Range
	OurVersion   string // of snapctl
	TheirVersion string
}

func (e *VersionError) Error() string {
	return fmt.Sprintf("host %s runs snapctl %s with %v, and this host runs snapctl %s with %v: they have none in common",
		e.Host, e.TheirVersion, e.Theirs, e.OurVersion, e.Ours)
}

// Remedy says what to do.
func (e *VersionError) Remedy() string {
	if e.Ours.Max < e.Theirs.Min {
		return "upgrade snapctl on this host"
	}
	return "upgrade snapctl on " + e.Host
}

// named names a host; "" is this one.
func named(host string) string {
	if host == "" {
		return "this host"
	}
	return "host " + host
}

// NotOwnerError is that a host does not have an endpoint with the epoch that it was asked for.
type NotOwnerError struct {
	By      string // the host that says so; a handler leaves it empty
	Network string
	Address netip.Addr
	Owner   string // whom it believes to have it; "": nobody
	Epoch   uint64
}

func (e *NotOwnerError) Error() string {
	if e.Owner == "" {
		return fmt.Sprintf("%s does not have %v in network %s, and knows nobody who has", named(e.By), e.Address, e.Network)
	}
	return fmt.Sprintf("%s does not have %v in network %s: %s has it, with epoch %d", named(e.By), e.Address, e.Network, e.Owner, e.Epoch)
}

// Remedy says what to do.
func (e *NotOwnerError) Remedy() string {
	if e.Owner == "" {
		return "ask the directory again"
	}
	return "ask " + e.Owner
}

// NotFoundError is that a host knows of nobody who has an address.
type NotFoundError struct {
	By      string // the host that says so; a handler leaves it empty
	Network string
	Address netip.Addr
}

func (e *NotFoundError) Error() string {
	return fmt.Sprintf("%s knows nobody who has %v in network %s", named(e.By), e.Address, e.Network)
}

// Remedy says what to do.
func (e *NotFoundError) Remedy() string { return "ask the directory" }

// InvalidError is a value that may not be said on the control channel.
type InvalidError struct {
	What string // the field
	Why  string
}

func (e *InvalidError) Error() string { return e.What + " " + e.Why }
