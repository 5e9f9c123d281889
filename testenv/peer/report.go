package peer

import (
	"net"
	"time"
)

// Report is a load's [Stats] with each of its connections and flows.
type Report struct {
	Stats
	Streams []Stream `json:"streams"`
	Sent    []Flow   `json:"sent_flows"` // those that this side sends; the rest is in Stats only
}

// Stream is one TCP connection of a load.
type Stream struct {
	Key           uint64 `json:"key"`
	Local         string `json:"local"`
	Remote        string `json:"remote"`
	SentBytes     int64  `json:"sent_bytes"`
	ReceivedBytes int64  `json:"received_bytes"`
	// MaxStall is the longest time in which nothing came here, and PeerMaxStall, known
	// when it has ended, in which nothing came there.
	MaxStall     time.Duration `json:"max_stall_ns"`
	PeerMaxStall time.Duration `json:"peer_max_stall_ns"`
}

// Flow is one flow of datagrams that this side sends.
type Flow struct {
	Key        uint64        `json:"key"`
	Local      string        `json:"local"`
	Remote     string        `json:"remote"`
	Datagrams  int64         `json:"datagrams"`
	Answered   int64         `json:"answered"`
	Duplicated int64         `json:"duplicated"`
	Reordered  int64         `json:"reordered"`
	MaxAnswer  time.Duration `json:"max_answer_ns"`
	// Missing is the numbers of those without an answer, the first of them if they
	// are in many pieces. Before the load has ended some may be under way.
	Missing []Span `json:"missing"`
}

// maxMissing bounds Flow.Missing.
const maxMissing = 64

// Report returns what has happened so far, or in all.
func (l *Load) Report() Report {
	r := Report{Stats: l.Stats()}
	ended := isClosed(l.done)
	for _, s := range l.sessions {
		one := Stream{
			Key: s.key, Local: text(s.conn.LocalAddr()), Remote: text(s.conn.RemoteAddr()),
			SentBytes: s.sent.Load(), ReceivedBytes: s.received.Load(), MaxStall: s.stall.max(),
		}
		if ended {
			one.PeerMaxStall = s.peerStall
		}
		r.Streams = append(r.Streams, one)
	}
	for _, f := range l.flows {
		r.Sent = append(r.Sent, f.report())
	}
	return r
}

func (f *flow) report() Flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	one := Flow{
		Key: f.key, Local: text(f.conn.LocalAddr()), Remote: text(f.conn.RemoteAddr()),
		Datagrams: int64(f.sent), Answered: int64(f.seq.next - f.seq.lost(f.seq.next)),
		Duplicated: int64(f.seq.duplicated), Reordered: int64(f.seq.reordered), MaxAnswer: f.maxAnswer,
	}
	one.Missing = append(one.Missing, f.seq.missing...)
	if f.sent > f.seq.next {
		one.Missing = append(one.Missing, Span{f.seq.next, f.sent - 1})
	}
	one.Missing = one.Missing[:min(len(one.Missing), maxMissing)]
	return one
}

func text(a net.Addr) string {
	if a == nil {
		return ""
	}
	return a.String()
}
