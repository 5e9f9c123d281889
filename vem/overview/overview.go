// Package overview is what people are shown of the hosts that share virtual networks: which
// channels there are, who has an endpoint, where the way to one is broken, and what of a host or of
// the network between hosts stands in the way.
//
//	Channel     a data channel, up or down
//	Resolution  who has an endpoint, and from where that is known
//	Trace       follows the way to an endpoint, step by step
//	Check       looks at what hosts need of each other
//
// The values are plain. [Trace] and [Check] ask an interface for what they look at, which package
// installation implements; they change nothing but what a packet changes.
package overview

import (
	"net/netip"
	"time"
)

// Channel is a data channel: the way of one network's packets to another host.
type Channel struct {
	Network, Host string
	Up            bool
	// Module to Endpoints of a channel that is down are as they were when it was up last.
	Module        string
	Device        string     // of this host, which has Local; empty: none has it now
	Local, Remote netip.Addr // on the underlay
	MTU           int        // bytes, of the largest packet inside
	// Since is when it came up, or went down; zero: before this snapctld was started.
	Since          time.Time
	Sent, Received Flow
	Last           time.Time    // of the last packet, either way; zero: there was none
	Endpoints      []netip.Addr // of the other host, that this one reaches over it
	Unmet          string       // why it is not of the kind that this host is to have; empty: it is, or may be any
}

// Flow is what went one way, counted from when the kernel got the channel.
type Flow struct{ Packets, Bytes uint64 }

// Source says from where something is known.
type Source string

// The sources.
const (
	Here      Source = "here"      // this host has it
	Cache     Source = "cache"     // what this host knows of the directory
	Directory Source = "directory" // it was asked
)

// Question asks who has an endpoint.
type Question struct {
	Network string     // empty: any
	App     string     // its name; empty: Addr counts
	Addr    netip.Addr // of either family; the zero Addr, without App: all endpoints
}

// Resolution is who has an endpoint.
type Resolution struct {
	Network      string
	App          string
	Addr4, Addr6 netip.Addr // Addr6 may be zero
	Host         string     // its owner; empty: this host, which is in no installation
	Self         bool       // the owner is this host
	Epoch        uint64     // 0: this host is in no installation
	State        string     // "running", "held", "moving"
	Target       string     // host, of an endpoint that is moving
	Alive        bool       // the owner was seen a moment ago
	Source       Source
	AsOf         time.Time // when it was so; zero: that is not known
}

// Answer is what is known of the endpoints that were asked for.
type Answer struct {
	Found []Resolution
	// Trouble is why the directory can't be asked now; nil: it can, or there is none.
	Trouble error
}
