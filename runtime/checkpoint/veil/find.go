package veil

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/absent"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// Veil hides connections.
type Veil struct {
	shown   map[int][]int // the descriptors that are not hidden, by process; of those where some are
	sockets []absent.Socket
	epolls  []absent.Epoll
	why     error
}

// Why tells why nothing can be hidden of an app that has connections; nil if something is.
func (v *Veil) Why() error { return v.why }

// Len is how many connections are hidden. The zero value and nil have none.
func (v *Veil) Len() int {
	if v == nil {
		return 0
	}
	return len(v.sockets)
}

// connection tells whether a socket is in a state that CRIU takes for a connection, too (sk-inet.c,
// can_dump_inet_sk), and which.
func connection(s *hold.Socket) (sockdiag.State, bool) {
	if s.Kind != hold.TCP || !s.Remote.IsValid() {
		return 0, false
	}
	for _, state := range []sockdiag.State{
		sockdiag.Established, sockdiag.FinWait1, sockdiag.FinWait2, sockdiag.CloseWait, sockdiag.LastAck, sockdiag.Closing,
	} {
		if s.State == state.String() {
			return state, true
		}
	}
	return 0, false
}

// Find finds what can be hidden of frozen processes, all of an app. set has their connections, and
// what else is held of them; it is not needed afterwards.
//
// Cost: 6 us a connection, and 3 us for each other descriptor.
func Find(ctx context.Context, pids []int, set *hold.Set) (*Veil, error) {
	f := finder{at: make(map[place]uint64), out: make(map[uint64]*absent.Socket), tables: make(map[[2]int]bool)}
	for i := range set.Sockets {
		if err := f.see(&set.Sockets[i]); err != nil {
			return nil, fmt.Errorf("look for connections: %w", err)
		}
	}
	if len(f.out) == 0 {
		return &Veil{}, nil
	}
	v, err := f.find(ctx, pids, set)
	if err != nil {
		return nil, fmt.Errorf("look for connections: %w", err)
	}
	return v, nil
}

// finder looks for what can be hidden.
type finder struct {
	at     map[place]uint64          // the socket at each descriptor, by inode
	out    map[uint64]*absent.Socket // those that can be hidden
	tables map[[2]int]bool           // whether two processes share their table
	// passing tells of descriptors in the queue of a unix socket; nil if there are none.
	passing error
}

// see looks at one socket.
func (f *finder) see(s *hold.Socket) error {
	for _, o := range s.Owners {
		f.at[place{o.PID, o.FD}] = s.Inode
	}
	state, ok := connection(s)
	if !ok {
		return nil
	}
	if s.File != nil { // else it is known to send none
		owner, err := unix.FcntlInt(s.File.Fd(), unix.F_GETOWN, 0)
		if err != nil || owner != 0 {
			return err
		}
	}
	for i, o := range s.Owners {
		for _, other := range s.Owners[:i] {
			if other.FD != o.FD || other.PID == o.PID {
				continue
			}
			shared, err := f.shared(other.PID, o.PID)
			if err != nil || shared {
				return err
			}
		}
	}
	f.out[s.Inode] = &absent.Socket{Inode: s.Inode, Family: s.Family, State: int(state), Local: s.Local, Remote: s.Remote}
	return nil
}

// shared tells whether two processes share their table of descriptors.
func (f *finder) shared(a, b int) (shared bool, err error) {
	pair := [2]int{a, b}
	shared, ok := f.tables[pair]
	if !ok {
		if shared, err = sameTable(a, b); err != nil {
			return false, err
		}
		f.tables[pair] = shared
	}
	return shared, nil
}

// find finds the rest.
func (f *finder) find(ctx context.Context, pids []int, set *hold.Set) (*Veil, error) {
	inner := make(map[int]int) // as the app numbers a process
	others := make(map[int][]int)
	var all []*instance
	for _, pid := range pids {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		own, err := proc.InnerPID(pid)
		if err != nil {
			return nil, err
		}
		inner[pid] = own
		if others[pid], err = f.others(ctx, pid, &all); err != nil {
			return nil, err
		}
	}
	if f.passing != nil {
		return &Veil{why: f.passing}, nil //nolint:nilerr // the app is saved all the same
	}
	hidden := f.epolls(all)
	v := &Veil{shown: make(map[int][]int)}
	for i := range set.Sockets {
		s := &set.Sockets[i]
		out, ok := f.out[s.Inode]
		if !ok {
			continue
		}
		for _, o := range s.Owners {
			out.Places = append(out.Places, absent.Place{DescriptorRef: image.DescriptorRef{PID: o.PID, FD: o.FD}})
			v.shown[o.PID] = nil
		}
		v.sockets = append(v.sockets, *out)
	}
	if err := lookAll(v.sockets, inner); err != nil {
		return nil, err
	}
	gone := make(map[place]bool)
	for _, in := range hidden {
		out := absent.Epoll{Watches: in.watches}
		for _, at := range in.at {
			p := absent.Place{DescriptorRef: image.DescriptorRef{PID: at.pid, FD: at.fd}}
			if err := look(&p, &out.Flags, inner); err != nil {
				return nil, err
			}
			out.Places = append(out.Places, p)
			v.shown[at.pid] = nil
			gone[at] = true
		}
		v.epolls = append(v.epolls, out)
	}
	for pid := range v.shown {
		v.shown[pid] = slices.DeleteFunc(others[pid], func(fd int) bool { return gone[place{pid, fd}] })
	}
	for at, inode := range f.at {
		if _, ok := v.shown[at.pid]; ok && f.out[inode] == nil {
			v.shown[at.pid] = append(v.shown[at.pid], at.fd)
		}
	}
	slices.SortFunc(v.sockets, func(a, b absent.Socket) int { return cmp.Compare(a.Inode, b.Inode) })
	return v, nil
}

// others lists the descriptors of a process that are none of the sockets, and adds its epoll instances
// to all.
func (f *finder) others(ctx context.Context, pid int, all *[]*instance) (others []int, err error) {
	fds, err := proc.Known(ctx, pid)
	if err != nil {
		return nil, err
	}
	for _, fd := range fds {
		at := place{pid, fd}
		if _, ok := f.at[at]; ok {
			continue
		}
		others = append(others, fd)
		link, err := os.Readlink(proc.FDPath(pid, fd))
		switch {
		case err != nil:
			err = proc.Gone(pid, err)
		case link == epollLink:
			*all, err = add(*all, at)
		case strings.HasPrefix(link, "socket:["):
			err = f.queue(at)
		}
		if err != nil {
			return nil, err
		}
	}
	return others, nil
}

// queue notes whether descriptors are on their way through a socket.
func (f *finder) queue(at place) error {
	info, err := proc.FDInfo(at.pid, at.fd)
	if err != nil {
		return proc.Gone(at.pid, err)
	}
	// Linux 5.9 (net/unix/af_unix.c, unix_show_fdinfo); other sockets have none.
	if n := info["scm_fds"]; n != "" && n != "0" {
		f.passing = fmt.Errorf("%w: descriptor %d of process %d", errPassing, at.fd, at.pid)
	}
	return nil
}

// errPassing is why nothing is hidden of an app.
var errPassing = errors.New("descriptors are on their way through a unix socket, and may be an epoll instance that watches connections")

// epolls lists the instances that have to be hidden since they watch what is hidden. What an instance
// watches that can't be, stays.
func (f *finder) epolls(all []*instance) []*instance {
	nested := make(map[place]bool)
	for _, in := range all {
		for _, w := range in.watches {
			nested[place{in.at[0].pid, w.FD}] = true
		}
	}
	for _, in := range all {
		can := !slices.ContainsFunc(in.at, func(at place) bool { return nested[at] })
		for i := 0; can && i < len(in.watches); i++ {
			can = in.finds(i, f.at)
		}
		if can {
			continue
		}
		for _, w := range in.watches {
			delete(f.out, w.Inode)
		}
	}
	return slices.DeleteFunc(all, func(in *instance) bool {
		return !slices.ContainsFunc(in.watches, func(w absent.Watch) bool {
			return f.out[w.Inode] != nil && f.at[place{in.at[0].pid, w.FD}] == w.Inode
		})
	})
}

// lookAll completes what is known of sockets, of which only the places are, on all processors: to read
// flags is most of the time that all of this takes, and the app stands still.
func lookAll(sockets []absent.Socket, inner map[int]int) error {
	var g errgroup.Group
	size := max(len(sockets)/runtime.GOMAXPROCS(0), 64)
	for some := range slices.Chunk(sockets, size) {
		g.Go(func() error {
			for i := range some {
				for k := range some[i].Places {
					if err := look(&some[i].Places[k], &some[i].Flags, inner); err != nil {
						return err
					}
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// look completes what is known of a descriptor, whose process is as we number it and then as the app
// does, and tells the status flags of its open file.
func look(p *absent.Place, status *int, inner map[int]int) error {
	flags, err := flagsOf(p.PID, p.FD)
	p.PID, p.CloseOnExec, *status = inner[p.PID], flags&unix.O_CLOEXEC != 0, flags&^unix.O_CLOEXEC
	return err
}

// flagsOf are those of a descriptor: O_CLOEXEC, and the status flags of the open file (fs/proc/fd.c,
// seq_show).
func flagsOf(pid, fd int) (int, error) {
	file, err := unix.Open("/proc/"+strconv.Itoa(pid)+"/fdinfo/"+strconv.Itoa(fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, proc.Gone(pid, err)
	}
	defer unix.Close(file) //nolint:errcheck // only read from
	var buf [256]byte
	n, err := unix.Read(file, buf[:])
	if err != nil {
		return 0, proc.Gone(pid, err)
	}
	_, text, _ := bytes.Cut(buf[:n], []byte("flags:\t"))
	text, _, ok := bytes.Cut(text, []byte("\n"))
	flags, err := strconv.ParseInt(string(text), 8, 64)
	if !ok || err != nil {
		return 0, fmt.Errorf("read flags of descriptor %d of process %d: %q", fd, pid, buf[:n])
	}
	return int(flags), nil
}

// Complete adds to CRIU's images, which nobody uses yet, what was hidden from it.
func (v *Veil) Complete(images string) error {
	if v.Len() == 0 {
		return nil
	}
	return absent.Add(images, v.sockets, v.epolls)
}
