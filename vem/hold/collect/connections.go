package collect

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// Connections describes the TCP connections of frozen processes but for those that send signals
// (F_SETOWN), and tells which other descriptors each process has. It holds nothing: the sockets have
// no File. It works on all processors, since the app stands still.
//
// Cost: about 8 us of processor time a connection, and 2 us for each other descriptor.
func Connections(ctx context.Context, pids []int) (*hold.Set, map[int][]int, error) {
	var c connections
	others := make(map[int][]int, len(pids))
	for _, pid := range pids {
		fds, err := proc.Known(ctx, pid)
		if err != nil {
			return nil, nil, err
		}
		parts := slices.Collect(slices.Chunk(fds, max(len(fds)/runtime.GOMAXPROCS(0)+1, minChunk)))
		rest := make([][]int, len(parts))
		var g errgroup.Group
		for i, some := range parts {
			g.Go(func() error {
				return proc.Duplicate(proc.Among(ctx, map[int][]int{pid: some}), pid, func(fd, copied int, at proc.Attributes) (bool, error) {
					is, err := c.see(hold.Owner{PID: pid, FD: fd}, copied, at)
					if !is {
						rest[i] = append(rest[i], fd)
					}
					return false, err
				})
			})
		}
		if err := g.Wait(); err != nil {
			return nil, nil, err
		}
		others[pid] = slices.Concat(rest...)
	}
	sockets := make([]hold.Socket, 0, len(c.found))
	for _, s := range c.found {
		if s.Kind == hold.TCP {
			sockets = append(sockets, *s)
		}
	}
	return hold.NewSet(sockets), others, nil
}

// minChunk is how many descriptors are not worth another thread.
const minChunk = 256

// connections gathers those of all processes.
type connections struct {
	mu    sync.Mutex
	found map[uint64]*hold.Socket // sockets by inode; of what is no connection the kind is another one
}

// see looks at one descriptor, and tells whether it leads to a connection.
func (c *connections) see(o hold.Owner, copied int, at proc.Attributes) (bool, error) {
	if at.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return false, nil
	}
	c.mu.Lock()
	have := c.found[at.Inode]
	if have != nil {
		have.Owners = append(have.Owners, o)
	}
	c.mu.Unlock()
	if have != nil {
		return have.Kind == hold.TCP, nil
	}
	s, err := describeConnection(copied)
	if err != nil {
		return false, fmt.Errorf("describe socket %d of process %d: %w", o.FD, o.PID, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if have := c.found[at.Inode]; have != nil { // somebody else was faster
		have.Owners = append(have.Owners, o)
		return have.Kind == hold.TCP, nil
	}
	if c.found == nil {
		c.found = make(map[uint64]*hold.Socket)
	}
	s.Inode, s.Owners = at.Inode, []hold.Owner{o}
	c.found[at.Inode] = s
	return s.Kind == hold.TCP, nil
}

// describeConnection describes a socket, as one of another kind if it is no connection.
func describeConnection(fd int) (*hold.Socket, error) {
	d, err := describeSocket(fd)
	if err != nil {
		return nil, err
	}
	s := &hold.Socket{Kind: hold.Other}
	if v := hold.Decide(d.facts); v.Fate != hold.Held || v.Kind != hold.TCP || !d.remote.IsValid() {
		return s, nil
	}
	owner, err := unix.FcntlInt(uintptr(fd), unix.F_GETOWN, 0)
	if err != nil || owner != 0 {
		return s, err
	}
	return &hold.Socket{
		Kind: hold.TCP, Family: d.facts.Family, Type: d.facts.Type, Proto: d.facts.Proto, State: d.state.String(), Local: d.local, Remote: d.remote,
	}, nil
}
