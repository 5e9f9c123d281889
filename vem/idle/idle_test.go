package idle

import (
	"net/netip"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
)

var client = netip.MustParseAddrPort("10.77.0.9:4000")

// TestJudge lets an app of which 4 s without traffic are asked be looked at each second.
func TestJudge(t *testing.T) {
	type look struct {
		traffic bool
		used    time.Duration // since the look before
		waiting []Wait
		awake   string // a part of it; empty: idle
	}
	quiet := look{awake: "less than 4s ago"}
	waits := func(kind WaitKind, d time.Duration, awake string) look {
		return look{waiting: []Wait{{Kind: kind, Remote: client, Local: client, For: d}}, awake: awake}
	}
	for name, looks := range map[string][]look{
		"nothing":                {quiet, quiet, quiet, {}},
		"traffic once":           {quiet, quiet, {traffic: true, awake: "traffic"}, quiet, quiet, quiet, {}},
		"traffic all the time":   {quiet, {traffic: true, awake: "traffic"}, quiet, {traffic: true, awake: "traffic"}, quiet, quiet, quiet, {}},
		"busy":                   {quiet, quiet, quiet, {used: time.Second / 5, awake: "busy"}, quiet, quiet, quiet, {}},
		"a little to do":         {quiet, quiet, quiet, {used: time.Second / 20}},
		"an answer owed":         {quiet, quiet, quiet, waits(Answer, 9*time.Second, "10.77.0.9:4000 waits for an answer"), {}},
		"an answer never comes":  {quiet, quiet, quiet, waits(Answer, time.Hour, "")},
		"unread for an hour":     {quiet, quiet, quiet, waits(Read, time.Hour, "data from 10.77.0.9:4000 waits to be read")},
		"unaccepted for an hour": {quiet, quiet, quiet, waits(Accept, time.Hour, "waits to be accepted")},
		"one of several":         {quiet, quiet, quiet, {waiting: []Wait{{Kind: Answer, For: time.Hour}, {Kind: Answer, For: 1, Remote: client}}, awake: "waits for an answer"}},
	} {
		t.Run(name, func(t *testing.T) {
			at := time.Unix(1000, 0)
			j := NewJudge(4*time.Second, Look{At: at})
			var used time.Duration
			for i, l := range looks {
				at, used = at.Add(time.Second), used+l.used
				idle, awake := j.See(Look{At: at, Traffic: l.traffic, Used: used, Waiting: l.waiting})
				comment := qt.Commentf("look %d", i+1)
				qt.Assert(t, qt.Equals(idle, l.awake == ""), comment)
				qt.Assert(t, qt.StringContains(awake, l.awake), comment)
			}
		})
	}
}

func TestRetry(t *testing.T) {
	now := time.Unix(1000, 0)
	var r Retry
	due, _ := r.Due(now)
	qt.Assert(t, qt.IsTrue(due))
	var pause time.Duration
	for range 30 { // pauses grow to an hour
		r.Failed(now, "")
		due, next := r.Due(now)
		qt.Assert(t, qt.IsFalse(due))
		qt.Assert(t, qt.IsTrue(next.Sub(now) > pause || pause == time.Hour))
		pause, now = next.Sub(now), next
		due, _ = r.Due(now)
		qt.Assert(t, qt.IsTrue(due))
	}
	qt.Assert(t, qt.Equals(pause, time.Hour))
	r.Failed(now, "an io_uring") // something else: from the beginning
	_, next := r.Due(now)
	qt.Assert(t, qt.Equals(next.Sub(now), time.Second))
	qt.Assert(t, qt.Equals(r.Refused(), "an io_uring"))
	r.Failed(now, "an io_uring")
	_, next = r.Due(now)
	qt.Assert(t, qt.Equals(next.Sub(now), 2*time.Second))
}
