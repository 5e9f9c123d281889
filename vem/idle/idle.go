// Package idle tells when an app may sleep: it has had no traffic for a while, and nobody
// waits for an answer of it.
//
// Nouns: a [Meter] looks at the traffic of one app; a [Look] is what it sees at one
// moment; a [Judge] tells from looks, one after the other, whether the app is idle, and
// if not why; a [Retry] says when to try again what has failed.
//
//	Meter.Look ──▶ Judge.See ──▶ idle: put it to sleep
//	                        └──▶ awake, because ...
//
// An app is kept awake by what would wake it, and by what somebody would miss:
//
//   - payload that comes in or goes out, also on connections that begin and end between two
//     looks;
//   - requests that it has not answered;
//   - data that it has not read.
//
// Handshakes, keepalives, and all that comes from ignored sources do not keep it awake.
package idle

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Look is what an app's traffic is like at one moment.
type Look struct {
	At      time.Time
	Traffic bool          // payload came or went since the look before
	Used    time.Duration // processor time that the app has had so far
	Waiting []Wait        // who waits for the app
}

// Wait is somebody who waits for the app to do something.
type Wait struct {
	Kind   WaitKind
	Local  netip.AddrPort
	Remote netip.AddrPort // zero for datagrams
	For    time.Duration  // how long, as far as known
}

// WaitKind says what somebody waits for.
type WaitKind int

// The kinds.
const (
	Answer WaitKind = iota + 1 // a request came in, and nothing has gone out since
	Read                       // data waits that the app has not read
	Accept                     // a connection waits that the app has not accepted
)

// longestAnswer is how long an app is kept awake for an answer. Some connections never
// have one: those of clients that only tell, such as those of log servers.
const longestAnswer = 10 * time.Minute

// String says who waits for what.
func (w Wait) String() string {
	switch w.Kind {
	case Read:
		if !w.Remote.IsValid() {
			return fmt.Sprintf("a datagram at %s waits to be read", w.Local)
		}
		return fmt.Sprintf("data from %s waits to be read", w.Remote)
	case Accept:
		return fmt.Sprintf("a connection from %s waits to be accepted", w.Remote)
	case Answer:
		return fmt.Sprintf("%s waits for an answer", w.Remote)
	default:
		return "somebody waits for it"
	}
}

// busyShare is the part of one processor from which on an app counts as busy, though it
// has no traffic: it may work on an answer that somebody waits for.
const busyShare = 0.1

// Judge tells from looks whether an app is idle. It does nothing itself, and is not safe
// for use by several at the same time.
type Judge struct {
	after time.Duration
	last  Look
	since time.Time // since when it has had no traffic, and was not busy
	busy  bool      // why it was not idle at that time
}

// NewJudge begins with a first look. An app is idle when it has had no traffic for the
// time after.
func NewJudge(after time.Duration, first Look) *Judge {
	return &Judge{after: after, last: first, since: first.At}
}

// See tells whether the app is idle at a later look, and if not what keeps it awake.
func (j *Judge) See(l Look) (idle bool, awake string) {
	busy := float64(l.Used-j.last.Used) > busyShare*float64(l.At.Sub(j.last.At))
	j.last = l
	if l.Traffic || busy {
		j.since, j.busy = l.At, busy && !l.Traffic
	}
	if l.At.Sub(j.since) < j.after {
		if j.busy {
			return false, "it is busy, or was so less than " + j.after.String() + " ago"
		}
		return false, "it had traffic, or was started, less than " + j.after.String() + " ago"
	}
	if i := slices.IndexFunc(l.Waiting, Wait.counts); i >= 0 {
		return false, l.Waiting[i].String()
	}
	return true, ""
}

// IdleFor is how long the app had been idle at the last look.
func (j *Judge) IdleFor() time.Duration { return j.last.At.Sub(j.since) }

// counts tells whether the app is kept awake for it.
func (w Wait) counts() bool { return w.Kind != Answer || w.For < longestAnswer }
