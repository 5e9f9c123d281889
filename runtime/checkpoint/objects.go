package checkpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/openfile"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
)

// frozenLook is what is found of an app that is frozen for a copy.
type frozenLook struct {
	s         *Subject
	opt       collect.Options
	announced []string // what CRIU was told of
	unseen    [][]byte
}

// frozen lists what CRIU saves only in part, and a restore without the live
// objects can make up for.
func (l *frozenLook) frozen(ctx context.Context, pids []int) ([]snapshot.External, error) {
	if slices.ContainsFunc(l.announced, func(name string) bool { return strings.HasPrefix(name, "unix[") }) {
		set, err := collect.App(ctx, pids, l.opt)
		if err != nil {
			return nil, err
		}
		l.unseen = set.Unseen
		if err := errors.Join(unannounced(set, l.announced), set.Close()); err != nil {
			return nil, err
		}
	}
	counting, err := collect.ForCopy(ctx, pids)
	if err != nil {
		return nil, err
	}
	list, err := l.s.terminals(ctx, pids)
	if err != nil {
		return nil, err
	}
	lent, err := l.lentToCopy(ctx, pids)
	if err != nil {
		return nil, err
	}
	list = append(list, lent...)
	for _, d := range counting {
		list = append(list, externalEventfd(d))
	}
	return list, nil
}

// lossy lists the same of what is held: a reboot ends the hold, and leaves what
// CRIU has saved.
func lossy(set *hold.Set) []snapshot.External {
	var list []snapshot.External
	for _, o := range set.Objects {
		if o.Semaphore {
			list = append(list, externalEventfd(o.Owners[0]))
		}
		if o.Lent != nil {
			list = append(list, externalFile(o))
		}
	}
	for _, q := range set.Queues() {
		list = append(list, externalQueue(q))
	}
	return list
}

func externalEventfd(d hold.Descriptor) snapshot.External {
	return snapshot.External{
		Kind: snapshot.ExternalEventfd, Key: fmt.Sprintf("eventfd[%d:%d]", d.PID, d.FD), PID: d.PID, FD: d.FD,
	}
}

// countingEventfd makes an eventfd with EFD_SEMAPHORE that has the count of the
// saved one.
func countingEventfd(images string, at image.DescriptorRef) (*os.File, error) {
	saved, err := openfile.ReadEventfd(images, at)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_SEMAPHORE|saved.Flags&unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	f := os.NewFile(uintptr(fd), "eventfd")
	if saved.Count == 0 {
		return f, nil
	}
	_, err = unix.Write(fd, binary.NativeEndian.AppendUint64(nil, saved.Count))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set count of eventfd: %w", err), f.Close())
	}
	return f, nil
}

// keepQueues has an app with POSIX message queues keep its ipc namespace, which
// CRIU then leaves alone: they live in it.
func (o *taking) keepQueues(ctx context.Context, s *Subject) error {
	pids, err := s.cgroup().PIDs()
	if err != nil {
		return err
	}
	found, err := collect.FindQueues(ctx, pids)
	if err != nil || !found.Any {
		return err
	}
	if err := s.Box.KeepIPC(o.PID); err != nil {
		return err
	}
	if err := s.onlyQueues(); err != nil { // before it is frozen
		return err
	}
	const key = "mqueue"
	o.Manifest.External = append(o.Manifest.External,
		snapshot.External{Kind: snapshot.ExternalIPC, Key: "ipc"},
		snapshot.External{Kind: snapshot.ExternalMount, Key: key, Path: mqueue.Mount})
	o.External = append(o.External, fmt.Sprintf("mnt[%s]:%s", mqueue.Mount, key))
	o.External = append(o.External, found.External...)
	return nil
}

// onlyQueues refuses an app that has System V objects in an ipc namespace that
// is kept. CRIU can't restore a mapping of shared memory whose namespace it did
// not save (cr-dump.c, check_sysvipc_map_dump), and at the end of the processes
// the kernel would undo their semaphore operations and remove what is marked.
func (s *Subject) onlyQueues() error {
	kept, err := s.Box.KeepsIPC()
	if err != nil || !kept {
		return err
	}
	tables, err := sandbox.SystemV(s.PID)
	if err != nil || len(tables) == 0 {
		return err
	}
	return &hold.UnsupportedError{
		PID: s.PID, FD: -1, What: "System V shared memory, semaphore or message queue beside POSIX message queues",
		Remedy: "the app must use one kind only: the former are saved, the latter stay in the kernel, and both are in one namespace",
	}
}
