package e2e

import (
	"context"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
	"github.com/snapctl/snapctl/testenv/peer"
	"github.com/snapctl/snapctl/testenv/traffic"
	"github.com/snapctl/snapctl/vem/netns"
)

// TestRestartsLoseNothing has daemons of an installation killed, and started again, while apps of their hosts talk: not
// even a datagram is lost, and none of their packets leaves the way that the kernel knows: what takes the one by
// the daemon waits for it, and is late, out of order, or too much for the queue on a machine that is busy.
func TestRestartsLoseNothing(t *testing.T) {
	hs := newInstallation(t, "alpha", "beta")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	members := []traffic.Member{hs.endpoint(0), hs.endpoint(1)}
	hs.know(members)
	mesh, err := traffic.Start(ctx, traffic.Plan{Members: members, Pairs: traffic.Everyone(members, 4, 2), Pattern: peer.Pattern{MaxPause: 20 * time.Millisecond}})
	qt.Assert(t, qt.IsNil(err))
	left := hs.leaves()
	for open := false; !open; { // the first packets find no way
		qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
		open = true
		for _, l := range left {
			open = l.now() == 0 && open
		}
	}
	for _, w := range append(hs.worlds, hs.worlds...) {
		qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
		qt.Assert(t, qt.IsNil(w.RestartDaemon(ctx, syscall.SIGKILL, host.Daemon{})))
		w.Dial()
	}
	qt.Assert(t, qt.IsNil(mesh.Progress(ctx)))
	for i, l := range left {
		qt.Check(t, qt.Equals(l.now(), 0), qt.Commentf("packets that %s left to its daemon", hs.worlds[i].Name()))
	}
	report, err := mesh.Stop(ctx)
	qt.Assert(t, qt.IsNil(err))
	t.Log(report)
	qt.Check(t, qt.IsNil(report.Err()))
	qt.Check(t, qt.Equals(report.Total().Lost, 0))
}

// left counts the packets for endpoints that a host leaves to its daemon, since the kernel knows no way for them.
type left struct {
	t *testing.T
	s int // a socket that nobody reads: what it counts is all
}

// leaves begins to count, for each host.
func (hs *hosts) leaves() (list []left) {
	for _, w := range hs.worlds {
		list = append(list, w.leaves())
	}
	return list
}

func (w *World) leaves() left {
	w.t.Helper()
	ns, err := netns.Open(w.Outside("/run/snapctl/fabric/default"))
	qt.Assert(w.t, qt.IsNil(err))
	defer ns.Close()
	c := left{w.t, -1}
	qt.Assert(w.t, qt.IsNil(ns.Do(func() (err error) {
		if c.s, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0); err != nil {
			return err
		}
		w.t.Cleanup(func() { qt.Check(w.t, qt.IsNil(unix.Close(c.s))) })
		// IPv4 that leaves: the kernel sends IPv6 of its own (MLD).
		const pktType = 0xfffff000 + 4 // SKF_AD_OFF + SKF_AD_PKTTYPE, linux/filter.h
		filter := []unix.SockFilter{
			{Code: unix.BPF_LD | unix.BPF_B | unix.BPF_ABS, K: pktType},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.PACKET_OUTGOING, Jf: 3},
			{Code: unix.BPF_LD | unix.BPF_H | unix.BPF_ABS, K: 12},
			{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.ETH_P_IP, Jf: 1},
			{Code: unix.BPF_RET | unix.BPF_K, K: 1},
			{Code: unix.BPF_RET | unix.BPF_K},
		}
		if err := unix.SetsockoptSockFprog(c.s, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}); err != nil {
			return err
		}
		slow, err := net.InterfaceByName("slow0")
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in network byte order
		return unix.Bind(c.s, &unix.SockaddrLinklayer{Protocol: all & 0xffff, Ifindex: slow.Index})
	})))
	return c
}

// now returns how many there were since it was called last.
func (c left) now() int {
	c.t.Helper()
	stats, err := unix.GetsockoptTpacketStats(c.s, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	qt.Assert(c.t, qt.IsNil(err))
	return int(stats.Packets)
}
