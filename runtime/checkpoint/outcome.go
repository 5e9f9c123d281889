package checkpoint

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image/inspect"
	"github.com/snapctl/snapctl/vem/tcprepair"
)

// Outcome is what became of a connection.
type Outcome struct {
	Socket, Reason string
	Kept           bool // else it was reset
}

// resets says which connections an app that was saved does not get back with the
// held sockets, and why. What was done has been done: that this can't be told now
// is logged, and no reason to fail.
func (t *Tools) resets(ctx context.Context, from snapshot.Dir, external []snapshot.External, held, gone map[uint64]bool, why func(restore.Reset) string) []Outcome {
	sockets, err := inspect.Sockets(ctx, from.Images())
	if err != nil {
		t.Log.ErrorContext(ctx, "look for connections that are reset", slog.String("images", from.Images()), slog.Any("error", err))
		return nil
	}
	var out []Outcome
	for _, r := range restore.Resets(external, sockets, held, gone) {
		out = append(out, Outcome{Socket: r.Socket, Reason: why(r)})
	}
	if len(out) > 0 {
		t.Log.WarnContext(ctx, "connections are reset", slog.String("images", from.Images()), slog.Int("connections", len(out)),
			slog.String("first", out[0].Socket), slog.String("reason", out[0].Reason))
	}
	return out
}

// Reset says which connections a held app does not have when it wakes with the sockets that are
// held; lost is why it has lost all of them, or nothing.
func (t *Tools) Reset(ctx context.Context, from snapshot.Dir, external []snapshot.External, held map[uint64]bool, lost string) []Outcome {
	return t.resets(ctx, from, external, held, nil, unheld(lost))
}

// Restored says what became of the connections of a snapshot's app in one that was restored
// from it.
func (t *Tools) Restored(ctx context.Context, from snapshot.Dir, m *snapshot.Manifest) []Outcome {
	saved, err := netstate.ReadConnections(from, m)
	if err != nil {
		t.Log.ErrorContext(ctx, "tell what became of connections", slog.String("images", from.Images()), slog.Any("error", err))
		saved = &tcprepair.Saved{}
	}
	held := make(map[uint64]bool)
	var kept []Outcome
	for _, c := range saved.Connections {
		for i := range c.Ends {
			held[c.Ends[i].Inode] = true
		}
		first := &c.Ends[0]
		kept = append(kept, Outcome{
			Socket: fmt.Sprintf("tcp %s <-> %s", plainAddress(first.Local), plainAddress(first.Remote)), Reason: "both of its ends are in the app", Kept: true,
		})
	}
	gone := make(map[uint64]bool, len(saved.Refused))
	for _, r := range saved.Refused {
		gone[r.Inode] = true
	}
	return append(t.resets(ctx, from, m.External, held, gone, ofApp(m.App, saved.Refused)), kept...)
}

func plainAddress(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
}

// ofApp is why a restored snapshot does not have connections.
func ofApp(name string, refused []tcprepair.Refused) func(restore.Reset) string {
	reasons := make(map[uint64]string, len(refused))
	for _, r := range refused {
		reasons[r.Inode] = r.Reason
	}
	return func(r restore.Reset) string {
		switch reason := reasons[r.Inode]; {
		case reason != "" && !r.Inside:
			return "app " + name + " had it, and it can't be saved: " + reason
		case reason != "":
			return "both of its ends were in app " + name + ", but it can't be saved: " + reason
		case r.Inside:
			return "both of its ends were in app " + name + ", and the snapshot has no state of it"
		}
		return "it belongs to app " + name
	}
}

// unheld is why a held app has lost connections: all of them, for a reason, or
// some that the collection could not find.
func unheld(lost string) func(restore.Reset) string {
	return func(restore.Reset) string {
		if lost != "" {
			return lost
		}
		return "no process had it open when the app was frozen: one had just passed it on"
	}
}

// Incomplete is what an operation that nobody asked for did to an app's sockets.
func Incomplete(op string, all []Outcome) error {
	more := ""
	if len(all) > 1 {
		more = fmt.Sprintf(" and %d more", len(all)-1)
	}
	return fmt.Errorf("%s: connections were reset: %s%s: %s", op, all[0].Socket, more, all[0].Reason)
}
