package collect

import (
	"context"
	"errors"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// External lists the connected unix sockets of a running app that lead out of it, for CRIU
// must be told of them before it looks at the app; see [hold.Set.External]. What the
// app changes later is for the caller to notice, by [App] of the frozen app.
// A process that ends meanwhile has no sockets: it is listed by its cgroup for a
// while after it has closed them (kernel/exit.c, do_exit).
//
// It also lists what a copy that is made now would have otherwise than the app, as
// [hold.Set.Notes].
//
// It fails as [App] does: so an app that can't be kept is refused before it is
// frozen, if it has unix connections.
//
// Cost: that of [App], or 0.1 ms without unix connections and listeners, unless
// it is to be thorough.
func External(ctx context.Context, pids []int, opt Options) ([]hold.Socket, []hold.Note, error) {
	if !opt.Thorough {
		known, err := sockdiag.UnixTableOf(opt.NS)
		if err != nil || !known.Connected() {
			return nil, nil, err
		}
	}
	s := newScanner(opt)
	defer s.close()
	for _, pid := range pids {
		if err := s.process(ctx, pid); err != nil && !errors.Is(err, proc.ErrGone) {
			return nil, nil, err
		}
	}
	set, err := s.finish(pids, opt)
	if err != nil {
		return nil, nil, err
	}
	var out []hold.Socket
	for i := range set.Sockets {
		if s := set.Sockets[i]; s.External() {
			s.File = nil
			out = append(out, s)
		}
	}
	return out, set.Notes, set.Close()
}
