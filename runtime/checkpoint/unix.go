package checkpoint

import (
	"context"
	"fmt"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
)

// ErrChanged is an app that has changed since CRIU was told what is external. To try again,
// thoroughly, helps.
var ErrChanged = fmt.Errorf("%w: try again", errdefs.ErrAborted)

// unixExternals lists the app's unix sockets that lead out of it. CRIU gets its
// list of them when it starts, before the app is frozen.
func unixExternals(ctx context.Context, s *Subject, opt collect.Options) ([]snapshot.External, error) {
	pids, err := s.cgroup().PIDs()
	if err != nil {
		return nil, err
	}
	sockets, notes, err := collect.External(ctx, pids, opt)
	if err != nil {
		return nil, err
	}
	for _, n := range notes {
		if opt.Copy { // a hold finds them again
			s.Note(n.Text, n.Remedy)
		}
	}
	list := make([]snapshot.External, len(sockets))
	for i := range sockets {
		list[i] = snapshot.External{
			Kind: snapshot.ExternalUnix, Key: sockets[i].ExternalName(), Inode: sockets[i].Inode, SocketType: sockets[i].Type,
		}
	}
	return list, nil
}

// unannounced refuses a set with a unix socket, message queue or file that CRIU was
// not told of, since the app got it only just before it was frozen, or it was not
// looked for thoroughly: the next time it is.
func unannounced(set *hold.Set, announced []string) error {
	for _, name := range set.External() {
		if !slices.Contains(announced, name) {
			return fmt.Errorf("%s was opened meanwhile: %w", name, ErrChanged)
		}
	}
	return nil
}

// sockets lists the descriptors that CRIU inherits: all that are held, and a stand-in for
// each external object that is not held (after a reboot, or in a copy). The stand-in of a unix
// socket is one whose peer is closed; of a semaphore eventfd, one with the saved count; of a
// message queue, an empty one; of a file of a bind, the file, opened again. drop closes the
// stand-ins.
func (s *Subject) sockets(m *snapshot.Manifest, images string) (_ []restore.Held, drop func(), err error) {
	held := s.heldFiles()
	var made []*os.File
	var unlinked []snapshot.External
	drop = func() {
		for _, f := range made {
			_ = f.Close() // a copy of the app's
		}
	}
	for _, e := range m.External {
		h := restore.Held{Inode: e.Inode, At: image.DescriptorRef{PID: e.PID, FD: e.FD}}
		var stand func() (*os.File, error)
		switch e.Kind { //nolint:exhaustive // the others are no descriptors
		case snapshot.ExternalUnix:
			stand = func() (*os.File, error) { return deadUnix(e.SocketType) }
		case snapshot.ExternalEventfd:
			stand = func() (*os.File, error) { return countingEventfd(images, h.At) }
		case snapshot.ExternalQueue:
			if e.PID == 0 {
				continue
			}
			stand = func() (*os.File, error) { return s.openQueue(e.Queue) }
		case snapshot.ExternalFile:
			stand = func() (*os.File, error) { return s.openLent(e) }
		default:
			continue
		}
		if slices.ContainsFunc(held, func(have restore.Held) bool { return have.Inode == h.Inode && have.At == h.At }) {
			continue
		}
		if h.File, err = stand(); err != nil {
			drop()
			return nil, nil, fmt.Errorf("replace %s: %w", e.Key, err)
		}
		if e.Kind == snapshot.ExternalQueue && e.Queue.Unlinked {
			unlinked = append(unlinked, e)
		}
		made = append(made, h.File)
		held = append(held, h)
	}
	if len(unlinked) > 0 {
		if err := s.unlinkQueues(unlinked); err != nil {
			drop()
			return nil, nil, err
		}
	}
	return held, drop, nil
}

// deadUnix makes a unix socket that was connected.
func deadUnix(kind int) (*os.File, error) {
	ends, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	return os.NewFile(uintptr(ends[0]), "unix"), unix.Close(ends[1])
}
