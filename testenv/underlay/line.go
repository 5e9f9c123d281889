package underlay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"os"
	"sync"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// A line carries a port's frames by hand, for them to be late or out of order. At
// its ends are the network's device of the port's pair, by a packet socket, and a
// TAP that is the port of the bridge.
//
// Each frame has a virtio_net_hdr before it, at both ends the same, which says that
// its checksum is not there yet (Documentation/networking/tuntap.rst, packet(7)).
type line struct {
	wire, tap *os.File
	lanes     [2]*lane // by Direction
	wg        sync.WaitGroup
}

const (
	frameHead  = 10        // virtio_net_hdr (include/uapi/linux/virtio_net.h)
	frameRoom  = 128 << 10 // for any frame
	laneFrames = 4096      // on a lane at a time
	laneBytes  = 16 << 20
	overtakers = 3 // frames that pass one that is held back
	holdTime   = 100 * time.Millisecond
)

// newLine makes the TAP tap and connects it to the device at index. The thread is in
// their namespace.
func newLine(index int, tap string) (_ *line, err error) {
	l := &line{}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("make line: %w", err), l.close())
		}
	}()
	if l.tap, err = openTap(tap); err != nil {
		return nil, err
	}
	dev, err := netlink.LinkByName(tap)
	if err != nil {
		return nil, err
	}
	// It holds what comes while this process does not get to read it.
	if err = netlink.LinkSetTxQLen(dev, laneFrames); err != nil {
		return nil, err
	}
	if l.wire, err = openWire(index); err != nil {
		return nil, err
	}
	l.lanes[Out], l.lanes[In] = newLane(), newLane()
	for _, way := range []struct {
		lane     *lane
		from, to *os.File
	}{{l.lanes[Out], l.wire, l.tap}, {l.lanes[In], l.tap, l.wire}} {
		l.wg.Go(func() { way.lane.receive(way.from) })
		l.wg.Go(func() { way.lane.send(way.to) })
	}
	return l, nil
}

// openTap makes a TAP that hands over no runs of segments.
func openTap(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	req, err := unix.NewIfreq(name)
	if err == nil {
		req.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, req)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make TAP: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil
}

// openWire opens a packet socket on a device. It sees what comes in there.
func openWire(index int) (*os.File, error) {
	all := binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, unix.ETH_P_ALL))
	// Of no protocol until it is bound to the device: else it had frames of others.
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open packet socket: %w", err)
	}
	for _, option := range []int{unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING} {
		if err == nil {
			err = unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1)
		}
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, laneBytes)
	}
	if err == nil {
		// The frames for the host's address are none for the device's own.
		err = unix.SetsockoptPacketMreq(fd, unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP,
			&unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC})
	}
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: index})
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("set up packet socket: %w", err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "packet"), nil
}

// close ends the line. What is on it is lost.
func (l *line) close() error {
	var errs []error
	for _, f := range []*os.File{l.wire, l.tap} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	for _, lane := range l.lanes {
		if lane != nil {
			lane.end()
		}
	}
	l.wg.Wait()
	return errors.Join(errs...)
}

// lane is one direction of a line: a queue in the order of coming.
type lane struct {
	queue chan frame
	done  chan struct{}
	end   func() // closes done, once

	mu     sync.Mutex
	faults Faults
	number uint64    // of the next frame since the faults were set
	free   time.Time // when the last frame has gone, at the rate
	last   time.Time // when the last frame is due
	bytes  int       // in the queue
	lost   uint64    // because it was full, since the faults were set
}

// frame is a frame on its way.
type frame struct {
	data []byte // with its frameHead
	due  time.Time
	held bool // others are to overtake it
}

func newLane() *lane {
	l := &lane{queue: make(chan frame, laneFrames), done: make(chan struct{})}
	l.end = sync.OnceFunc(func() { close(l.done) })
	return l
}

func (l *lane) set(f Faults) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults, l.number, l.lost = f, 0, 0
}

func (l *lane) overflow() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost
}

// receive puts what comes into the queue, until from is closed.
func (l *lane) receive(from io.Reader) {
	buf := make([]byte, frameRoom)
	for {
		n, err := from.Read(buf)
		switch {
		case errors.Is(err, unix.ENETDOWN): // Port.Down: it goes on with Port.Up
			continue
		case err != nil:
			return
		}
		l.enter(time.Now(), buf[:n])
	}
}

// enter says when a frame is due. It is lost if the lane is full.
func (l *lane) enter(now time.Time, data []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bytes+len(data) > laneBytes {
		l.lost++
		return
	}
	f := frame{data: append([]byte(nil), data...), due: now}
	if r := l.faults.Rate; r > 0 {
		if l.free.After(now) {
			f.due = l.free
		}
		f.due = f.due.Add(transmission(len(data)-frameHead, r))
		l.free = f.due
	}
	f.due = f.due.Add(l.faults.Delay)
	if f.due.Before(l.last) {
		f.due = l.last // the delay was longer before
	}
	l.last = f.due
	f.held = mix(^l.faults.Seed+l.number)>>32 < threshold(l.faults.Reorder)
	l.number++
	select {
	case l.queue <- f:
		l.bytes += len(data)
	default:
		l.lost++
	}
}

// transmission is how long it takes to send bytes at a rate.
func transmission(size int, rate int64) time.Duration {
	high, low := bits.Mul64(uint64(max(size, 0)), uint64(time.Second))
	if high >= uint64(rate) {
		return holdTime // no such frame
	}
	t, _ := bits.Div64(high, low, uint64(rate))
	return time.Duration(t)
}

// left tells that a frame has left the queue.
func (l *lane) left(f frame) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.bytes -= len(f.data)
}

// send writes each frame when it is due. One that can't be written is lost.
func (l *lane) send(to io.Writer) {
	var back []frame // held back, with when they have to go at the latest
	var passed []int // how many overtook each
	put := func(f frame) { _, _ = to.Write(f.data) }
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var late <-chan time.Time
		if len(back) > 0 {
			timer.Reset(time.Until(back[0].due))
			late = timer.C
		}
		select {
		case <-l.done:
			return
		case <-late:
			put(back[0])
			back, passed = back[1:], passed[1:]
			continue
		case f := <-l.queue:
			l.left(f)
			if !l.until(f.due) {
				return
			}
			if f.held {
				f.due = time.Now().Add(holdTime)
				back, passed = append(back, f), append(passed, 0)
				continue
			}
			put(f)
		}
		for i := range passed {
			passed[i]++
		}
		for len(back) > 0 && passed[0] >= overtakers {
			put(back[0])
			back, passed = back[1:], passed[1:]
		}
	}
}

// until waits for a time and returns false if the lane has ended.
func (l *lane) until(due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		return true
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-l.done:
		return false
	}
}
