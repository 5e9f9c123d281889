package hold

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// NetNS is an app's network namespace; *netns.NS is one.
type NetNS = sockdiag.NetNS

// Options say more about the app that is collected.
type Options struct {
	// NS is the app's network namespace, where its unix sockets' peers are looked
	// up. Default: the caller's own one.
	NS NetNS
	// HostPaths are the folders inside the app, as it sees them, that are bind
	// mounts from the host: a unix socket bound below one of them may be reached
	// from outside of the app. Default: none.
	HostPaths []string
	// Binds say for HostPaths where the caller sees the same. Default: unknown.
	Binds []Bind
	// Known are the names of files that CRIU has been told of, as in [Set.External],
	// and that are not to be held. Default: none.
	Known []string
	// Copy has [FindLent] look for a copy of the app, which gets no held file: it
	// lists only those that CRIU can't find, and fails if nobody can.
	Copy bool
	// Thorough has [External] look at every socket. Default: only if the app's
	// namespace has a unix connection or listener. A connection whose listener is
	// closed may be in its client's alone.
	Thorough bool
	// Visit is called by [Collect] for each socket but for TCP connections, held or not;
	// may be nil.
	Visit func(OpenSocket) error
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
		if err := opt.Visit(OpenSocket{Inode: inode, Owner: f.owners[0], FD: f.fd}); err != nil {
			return err
		}
	}
	return nil
}

// Collect duplicates every socket and [Object] of the processes that the VEM can hold. The
// app should be frozen: of a running one, the set may be out of date at once.
//
// It fails early, holding nothing, with an *[UnsupportedError] if the app has a
// file that can be neither held nor saved by CRIU, and with an error wrapping
// [ErrGone] if a process ended. The caller closes the set.
//
// Cost: about 8 us of processor time a socket (BenchmarkCollect). Run [Preflight]
// before, which makes room for them.
func Collect(ctx context.Context, pids []int, opt Options) (*Set, error) {
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
func (s *scanner) finish(pids []int, opt Options) (*Set, error) {
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
	if set.queues, err = namedQueues(pids[0]); err != nil {
		return nil, errors.Join(err, set.Close())
	}
	return set, nil
}

// set moves the held sockets out of the scanner.
func (s *scanner) set() (_ *Set, err error) {
	sockets := make([]Socket, 0, len(s.sockets))
	var objects []Object
	w, err := newWrapper()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err = errors.Join(err, w.close()); err != nil {
			err = errors.Join(err, closeAll(sockets, objects))
		}
	}()
	for _, inode := range s.order {
		f := s.sockets[inode]
		if err := f.refused(); err != nil { // with what is known of unix sockets now
			return nil, err
		}
		v := Decide(f.details.facts)
		if v.Fate != Held && !f.awaited {
			if f.details.messages {
				s.notes = append(s.notes, lostMessages(f.details.path, f.owners[0]))
			}
			continue
		}
		var receive *Buffer
		if v.Kind.datagrams() {
			if receive, err = readBuffer(f.fd); err != nil {
				return nil, fmt.Errorf("look at socket %d: %w", inode, err)
			}
		}
		file, err := w.file(f.fd, "socket:["+strconv.FormatUint(inode, 10)+"]")
		if err != nil {
			return nil, err
		}
		f.fd = -1
		sockets = append(sockets, Socket{
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
	set := NewSet(sockets)
	set.Objects, set.Unseen = objects, s.unseen
	return set, nil
}
