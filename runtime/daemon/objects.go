package daemon

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/vem/hold"
)

// unsaved lists what CRIU saves of a frozen app only in part, and a restore
// without the live objects can make up for.
func unsaved(ctx context.Context, pids []int) ([]snapshot.External, error) {
	counting, err := hold.ForCopy(ctx, pids)
	if err != nil {
		return nil, err
	}
	list := make([]snapshot.External, len(counting))
	for i, d := range counting {
		list[i] = externalEventfd(d)
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
	saved, err := image.ReadEventfd(images, at)
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
