package traffic

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/snapctl/snapctl/testenv/peer"
)

// Report is what happened in all.
type Report struct {
	Pairs []PairReport
}

// PairReport is what happened to one pair, once for each time it was connected.
type PairReport struct {
	Pair
	Rounds []peer.Report
}

// Err returns nil if no byte of any connection was lost, doubled, reordered or
// changed, no connection was reset or failed to end, and no datagram was changed. Else
// it returns an error that has every fault. Loss, doubling and reordering of datagrams
// is counted only: [Report.Total].
func (r Report) Err() error {
	var errs []error
	for _, p := range r.Pairs {
		for _, round := range p.Rounds {
			for _, f := range round.Faults {
				if f.Proto == "tcp" || f.Kind == peer.Corrupt {
					errs = append(errs, fmt.Errorf("%s to %s: %w", p.From, p.To, f))
				}
			}
		}
	}
	return errors.Join(errs...)
}

// Total adds up all connections and flows. The longest stall is that of one of them.
func (r Report) Total() peer.Stats {
	var sum peer.Stats
	for _, p := range r.Pairs {
		for _, s := range p.Rounds {
			sum.Connections += s.Connections
			sum.SentBytes += s.SentBytes
			sum.ReceivedBytes += s.ReceivedBytes
			if s.MaxStall > sum.MaxStall {
				sum.MaxStall, sum.MaxStallConn = s.MaxStall, s.MaxStallConn
			}
			sum.PeerMaxStall = max(sum.PeerMaxStall, s.PeerMaxStall)
			sum.Flows += s.Flows
			sum.Datagrams += s.Datagrams
			sum.Answered += s.Answered
			sum.Lost += s.Lost
			sum.Duplicated += s.Duplicated
			sum.Reordered += s.Reordered
			if s.MaxAnswer > sum.MaxAnswer {
				sum.MaxAnswer, sum.MaxAnswerOf = s.MaxAnswer, s.MaxAnswerOf
			}
			sum.Faults = append(sum.Faults, s.Faults...)
		}
	}
	return sum
}

// Pause is the longest time in which nothing came on a connection, at either end.
type Pause struct {
	Pair          Pair
	Local, Remote string
	Longest       time.Duration
}

// Pauses lists the longest pause of each connection, the longest first.
func (r Report) Pauses() []Pause {
	var list []Pause
	for _, p := range r.Pairs {
		for _, round := range p.Rounds {
			for _, s := range round.Streams {
				list = append(list, Pause{p.Pair, s.Local, s.Remote, max(s.MaxStall, s.PeerMaxStall)})
			}
		}
	}
	slices.SortStableFunc(list, func(a, b Pause) int { return cmp.Compare(b.Longest, a.Longest) })
	return list
}

// String is a summary in a few lines: totals, flows that lost something, and the
// three connections that paused the longest.
func (r Report) String() string {
	var b strings.Builder
	sum := r.Total()
	fmt.Fprintf(&b, "%d connections, %d kB sent, %d kB received; %d flows, %d datagrams, %d lost, %d double, %d out of order, longest answer %v",
		sum.Connections, sum.SentBytes>>10, sum.ReceivedBytes>>10,
		sum.Flows, sum.Datagrams, sum.Lost, sum.Duplicated, sum.Reordered, sum.MaxAnswer.Round(time.Millisecond))
	for _, p := range r.Pairs {
		for _, round := range p.Rounds {
			for _, f := range round.Sent {
				if len(f.Missing) > 0 {
					fmt.Fprintf(&b, "\n%s to %s, datagrams from %s to %s: no answer to %v", p.From, p.To, f.Local, f.Remote, f.Missing)
				}
			}
		}
	}
	const shown = 3
	for i, p := range r.Pauses() {
		if i == shown {
			break
		}
		fmt.Fprintf(&b, "\n%s to %s, connection from %s to %s: longest pause %v", p.Pair.From, p.Pair.To, p.Local, p.Remote, p.Longest.Round(time.Millisecond))
	}
	return b.String()
}
