package collect

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
	"github.com/snapctl/snapctl/vem/hold/proc"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// Options say more about the app that is collected.
type Options struct {
	// NS is the app's network namespace, where its unix sockets' peers are looked
	// up. Default: the caller's own one.
	NS sockdiag.NetNS
	// HostPaths are the folders inside the app, as it sees them, that are bind
	// mounts from the host: a unix socket bound below one of them may be reached
	// from outside of the app. Default: none.
	HostPaths []string
	// Binds say for HostPaths where the caller sees the same. Default: unknown.
	Binds []Bind
	// Known are the names of files that CRIU has been told of, as in [hold.Set.External],
	// and that are not to be held. Default: none.
	Known []string
	// Copy has [FindLent] look for a copy of the app, which gets no held file: it
	// lists only those that CRIU can't find, and fails if nobody can.
	Copy bool
	// Thorough has [External] look at every socket. Default: only if the app's
	// namespace has a unix connection or listener. A connection whose listener is
	// closed may be in its client's alone.
	Thorough bool
	// Visit is called by [App] for each socket but for TCP connections, held or not;
	// may be nil.
	Visit func(hold.OpenSocket) error
}

// hostPaths are HostPaths and those of Binds.
func (o *Options) hostPaths() []string {
	paths := slices.Clone(o.HostPaths)
	for _, b := range o.Binds {
		paths = append(paths, b.Inside)
	}
	return paths
}

// visit calls [Options.Visit] for each socket.
func (s *scanner) visit(opt Options) error {
	if opt.Visit == nil {
		return nil
	}
	for _, inode := range s.order {
		f := s.sockets[inode]
		if f.details.facts.Proto == unix.IPPROTO_TCP && f.details.remote.IsValid() {
			continue
		}
		if err := opt.Visit(hold.OpenSocket{Inode: inode, Owner: f.owners[0], FD: f.fd}); err != nil {
			return err
		}
	}
	return nil
}

// App duplicates every socket and [hold.Object] of the processes that the VEM can hold. The
// app should be frozen: of a running one, the set may be out of date at once.
//
// It fails early, holding nothing, with an *[hold.UnsupportedError] if the app has a
// file that can be neither held nor saved by CRIU, and with an error wrapping
// [proc.ErrGone] if a process ended. The caller closes the set.
//
// Cost: about 8 us of processor time a socket (BenchmarkCollect). Run the preflight
// before, which makes room for them.
func App(ctx context.Context, pids []int, opt Options) (*hold.Set, error) {
	s := newScanner(opt)
	defer s.close()
	for _, pid := range pids {
		if err := s.process(ctx, pid); err != nil {
			return nil, err
		}
	}
	if err := sameNamespaces(pids); err != nil {
		return nil, err
	}
	return s.finish(pids, opt)
}

// finish makes a set of the sockets that were found.
func (s *scanner) finish(pids []int, opt Options) (*hold.Set, error) {
	if err := s.describe(); err != nil {
		return nil, err
	}
	if err := errors.Join(s.markMoved(), s.markOutside(opt), s.visit(opt)); err != nil {
		return nil, err
	}
	notes, err := s.lent.settle(&s.objects)
	if err != nil {
		return nil, err
	}
	set, err := s.set()
	if err != nil {
		return nil, err
	}
	set.Notes = append(notes, s.notes...)
	if len(pids) == 0 {
		return set, nil
	}
	if set.Named, err = mqueue.Named(pids[0]); err != nil {
		return nil, errors.Join(err, set.Close())
	}
	return set, nil
}

// sameNamespaces looks again, now that the app is frozen: what could not be
// restored would be lost. A tracer is CRIU's business by now.
func sameNamespaces(pids []int) error {
	var seen proc.Namespaces
	for _, pid := range pids {
		st, err := proc.ReadStatus(pid)
		if err != nil {
			return err
		}
		seen.See(pid, st)
	}
	var errs []error
	for _, s := range seen.Strangers(pids) {
		errs = append(errs, hold.OwnNamespace(s.Kind).Refusal(s.Pid, hold.NoFD))
	}
	return errors.Join(errs...)
}

// set moves the held sockets out of the scanner.
func (s *scanner) set() (_ *hold.Set, err error) {
	sockets := make([]hold.Socket, 0, len(s.sockets))
	var objects []hold.Object
	w, err := proc.NewWrapper()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, w.Close()); err != nil {
			err = errors.Join(err, (&hold.Set{Sockets: sockets, Objects: objects}).Close())
		}
	}()
	for _, inode := range s.order {
		f := s.sockets[inode]
		if err := f.refused(); err != nil { // with what is known of unix sockets now
			return nil, err
		}
		v := hold.Decide(f.details.facts)
		if v.Fate != hold.Held && !f.awaited {
			if f.details.messages {
				s.notes = append(s.notes, hold.LostMessages(f.details.path, f.owners[0]))
			}
			continue
		}
		receive, err := hold.ReadBuffer(v.Kind, f.fd)
		if err != nil {
			return nil, fmt.Errorf("look at socket %d: %w", inode, err)
		}
		file, err := w.File(f.fd, "socket:["+strconv.FormatUint(inode, 10)+"]")
		if err != nil {
			return nil, err
		}
		f.fd = -1
		sockets = append(sockets, hold.Socket{
			Inode:   inode,
			Kind:    v.Kind,
			Family:  f.details.facts.Family,
			Type:    f.details.facts.Type,
			Proto:   f.details.facts.Proto,
			State:   f.details.state.String(),
			Local:   f.details.local,
			Remote:  f.details.remote,
			Path:    f.details.path,
			Inside:  f.awaited,
			Backlog: f.details.backlog,
			Receive: receive,
			Owners:  f.owners,
			File:    file,
		})
	}
	if objects, err = s.objects.take(w); err != nil {
		return nil, err
	}
	set := hold.NewSet(sockets)
	set.Objects, set.Unseen = objects, s.unseen
	return set, nil
}
