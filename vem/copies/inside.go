package copies

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/proc"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
)

// Inside is an app's TCP connections both of whose ends are in the app: a copy of the
// app can have them too, see package tcprepair. It owns the files.
type Inside struct{ Connections []Connection }

// Connection is one of them.
type Connection struct {
	// Ends are both, or the one that a process still has.
	Ends []ConnectionEnd
	// Refused says why a copy can't have it; empty if it may.
	Refused string
}

// ConnectionEnd is one end.
type ConnectionEnd struct {
	Inode  uint64
	Saved  uint64 // as in [hold.Socket]
	Queued uint32 // bytes that have arrived and were not read, FIN included
	// File is a duplicate, as in [hold.Socket]; nil before Open, and if Refused.
	File *os.File
}

// FindInside lists the TCP connections of a network namespace that lead from it into
// it. own are its addresses but for those of the loopback device. It opens no socket.
//
// Cost: 2 us for each of them, and next to nothing for the namespace's other ones.
func FindInside(ns sockdiag.NetNS, own ...netip.Addr) (*Inside, error) {
	c, err := sockdiag.Dial(ns)
	if err != nil {
		return nil, err
	}
	defer c.Close() //nolint:errcheck // nothing was written
	to := []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{127}), 8), netip.PrefixFrom(netip.IPv6Loopback(), 128)}
	for _, a := range own {
		if a.IsValid() {
			to = append(to, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	var all []sockdiag.Inet
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		some, err := c.Inet(sockdiag.InetQuery{
			Family: family, Proto: unix.IPPROTO_TCP,
			States: sockdiag.AllStates &^ sockdiag.States(sockdiag.Listen, sockdiag.Close, sockdiag.SynSent),
			To:     to,
		})
		if err != nil {
			return nil, err
		}
		all = append(all, some...)
	}
	return insideOf(all), nil
}

// insideOf makes connections of ends. It only computes.
func insideOf(all []sockdiag.Inet) *Inside {
	ends := make(map[[2]netip.AddrPort]sockdiag.Inet)
	for _, s := range all {
		ends[[2]netip.AddrPort{s.Local, s.Remote}] = s
	}
	in := &Inside{}
	for _, s := range all {
		if s.Inode == 0 {
			continue
		}
		other, ok := ends[[2]netip.AddrPort{s.Remote, s.Local}]
		if ok && other.Inode != 0 && other.Inode < s.Inode {
			continue // it was listed with the other
		}
		c := Connection{Ends: []ConnectionEnd{{Inode: uint64(s.Inode), Queued: s.RecvQ}}}
		switch {
		case ok && other.Inode == s.Inode:
			c.Refused = "it is connected to itself"
		case ok && other.Inode != 0:
			c.Ends = append(c.Ends, ConnectionEnd{Inode: uint64(other.Inode), Queued: other.RecvQ})
		case ok && (other.State == sockdiag.Established || other.State == sockdiag.CloseWait || other.State == sockdiag.SynRecv || other.State == sockdiag.NewSynRecv):
			c.Refused = "its other end waits to be accepted"
		}
		if s.MD5 || ok && other.MD5 {
			c.Refused = "it is authenticated by TCP MD5 signatures"
		}
		in.Connections = append(in.Connections, c)
	}
	return in
}

// Open duplicates the sockets of the processes, which should be frozen. A connection of
// which a process has no descriptor is refused. If it fails, Close closes the rest.
func (in *Inside) Open(ctx context.Context, pids []int) error {
	wanted := in.wanted()
	if len(wanted) == 0 {
		return nil
	}
	w, err := proc.NewWrapper()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		err = errors.Join(err, proc.Duplicate(proc.All(ctx), pid, func(_, copied int, at proc.Attributes) (bool, error) {
			e := wanted[at.Inode]
			if at.Mode&unix.S_IFMT != unix.S_IFSOCK || e == nil || e.File != nil {
				return false, nil
			}
			var err error
			e.File, err = w.File(copied, "socket:["+strconv.FormatUint(at.Inode, 10)+"]")
			return err == nil, err
		}))
	}
	in.refuseMissing()
	return errors.Join(err, w.Close())
}

// OpenHeld is Open for an app without processes: it duplicates what is held.
func (in *Inside) OpenHeld(set *hold.Set) error {
	in.name(set)
	wanted := in.wanted()
	for i := range set.Sockets {
		e := wanted[set.Sockets[i].Inode]
		if e == nil {
			continue
		}
		fd, err := unix.FcntlInt(set.Sockets[i].File.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("duplicate held socket: %w", err)
		}
		w, err := proc.NewWrapper()
		if err != nil {
			return errors.Join(err, unix.Close(fd))
		}
		if e.File, err = w.File(fd, set.Sockets[i].Key()); err != nil {
			return errors.Join(err, unix.Close(fd), w.Close())
		}
		if err := w.Close(); err != nil {
			return err
		}
	}
	in.refuseMissing()
	return nil
}

// ImageInode is as that of [hold.Socket].
func (e *ConnectionEnd) ImageInode() uint64 { return cmp.Or(e.Saved, e.Inode) }

// name finds by which numbers the app's images know the ends.
func (in *Inside) name(set *hold.Set) {
	saved := make(map[uint64]uint64)
	for i := range set.Sockets {
		if s := &set.Sockets[i]; s.Saved != 0 {
			saved[s.Inode] = s.Saved
		}
	}
	for i := range in.Connections {
		for j := range in.Connections[i].Ends {
			e := &in.Connections[i].Ends[j]
			e.Saved = saved[e.Inode]
		}
	}
}

// wanted are the ends of connections that are not refused.
func (in *Inside) wanted() map[uint64]*ConnectionEnd {
	wanted := make(map[uint64]*ConnectionEnd)
	for i := range in.Connections {
		if c := &in.Connections[i]; c.Refused == "" {
			for j := range c.Ends {
				wanted[c.Ends[j].Inode] = &c.Ends[j]
			}
		}
	}
	return wanted
}

func (in *Inside) refuseMissing() {
	for i := range in.Connections {
		c := &in.Connections[i]
		if c.Refused == "" && slices.ContainsFunc(c.Ends, func(e ConnectionEnd) bool { return e.File == nil }) {
			c.Refused = "no process had an end of it open: one had just passed it on"
		}
	}
}

// Close closes the files.
func (in *Inside) Close() error {
	var errs []error
	for i := range in.Connections {
		for j := range in.Connections[i].Ends {
			if e := &in.Connections[i].Ends[j]; e.File != nil {
				errs = append(errs, e.File.Close())
				e.File = nil
			}
		}
	}
	return errors.Join(errs...)
}
