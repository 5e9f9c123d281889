package peer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Stats is what a load has seen so far, or in all.
type Stats struct {
	Connections   int   `json:"connections"`
	SentBytes     int64 `json:"sent_bytes"`
	ReceivedBytes int64 `json:"received_bytes"`
	// MaxStall is the longest time in which an open connection brought nothing
	// to the driver: the pause of the pattern and what came on top of it.
	MaxStall     time.Duration `json:"max_stall_ns"`
	MaxStallConn uint64        `json:"max_stall_conn"`
	// PeerMaxStall is the same at the responder. It is known after Stop.
	PeerMaxStall time.Duration `json:"peer_max_stall_ns"`

	Flows       int           `json:"flows"`
	Datagrams   int64         `json:"datagrams"`  // sent, and to be echoed
	Answered    int64         `json:"answered"`   // echoed
	Lost        int64         `json:"lost"`       // not echoed; known after Stop
	Duplicated  int64         `json:"duplicated"` // echoed again
	Reordered   int64         `json:"reordered"`  // echoed after later ones: UDP may do that
	MaxAnswer   time.Duration `json:"max_answer_ns"`
	MaxAnswerOf uint64        `json:"max_answer_flow"`

	Faults []*Fault `json:"faults"` // sorted by connection
}

// Err returns nil if there was no fault, and else an error that has the first
// few of them.
func (s Stats) Err() error {
	const shown = 5
	var errs []error
	for _, f := range s.Faults[:min(shown, len(s.Faults))] {
		errs = append(errs, f)
	}
	if more := len(s.Faults) - shown; more > 0 {
		errs = append(errs, fmt.Errorf("and %d more faults", more))
	}
	return errors.Join(errs...)
}

// faults collects the faults of many goroutines.
type faults struct {
	mu  sync.Mutex
	all []*Fault
}

func (f *faults) add(fault *Fault) {
	if fault == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.all = append(f.all, fault)
}

func (f *faults) list() []*Fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := append([]*Fault{}, f.all...)
	slices.SortStableFunc(all, func(a, b *Fault) int { return cmp.Compare(a.Conn, b.Conn) })
	return all
}
