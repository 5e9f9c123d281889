package slowpath

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netns"
)

// Names and addresses of the device's link, on which there is nobody else: both sides are known
// for ever, so no ARP and no neighbour discovery happens.
var (
	deviceMAC = net.HardwareAddr{0x02, 0x73, 0, 0, 0, 3}
	nextMAC   = net.HardwareAddr{0x02, 0x73, 0, 0, 0, 4} // of the next hop: this process
	nextHop4  = netip.AddrFrom4([4]byte{169, 254, 1, 2})
	nextHop6  = netip.AddrFrom16([16]byte{0: 0xfe, 1: 0x80, 15: 2})
)

// queueLen is how many packets the device keeps for the process to read. They are single ones of
// at most the MTU, since the device takes no segments that the kernel left whole: at the usual
// 1400 bytes that is some 6 MiB, and twice that in the kernel's buffers.
const queueLen = 4096

// device is the TAP in the fabric.
type device struct {
	ns    *netns.NS // this device's handle
	nl    *netlink.Handle
	file  *os.File
	index int
	made  bool // by this process
}

// openDevice makes the device, or takes over what an earlier process left: kept, if that leads to
// the fabric's device, with all that waits there, else a device that nobody reads any more. It
// sets the device up, but for the routes to it. If it fails a device that it made is gone again.
func openDevice(o Options) (_ *device, err error) {
	d := &device{}
	if d.ns, err = o.NS.Dup(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			if d.made {
				err = errors.Join(err, d.remove())
			}
			err = errors.Join(err, d.close())
		}
	}()
	err = d.ns.Do(func() (err error) {
		d.nl, err = netlink.NewHandle(unix.NETLINK_ROUTE)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open netlink socket: %w", err)
	}
	if d.made, err = d.attach(o.Device); err != nil {
		return nil, err
	}
	if err := d.setUp(o); err != nil {
		return nil, err
	}
	return d, nil
}

// attach opens the queue of the device, which it makes if need be.
func (d *device) attach(kept *os.File) (made bool, err error) {
	link, err := d.link()
	if err != nil {
		return false, err
	}
	if link != nil && kept != nil && d.adopt(kept) {
		d.index = link.Attrs().Index
		return false, nil
	}
	if link != nil {
		// Nobody has its queue, unless a process that keeps it does not give it back.
		d.file, err = openQueue(d.ns)
		if err == nil {
			d.index = link.Attrs().Index
			return false, nil
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINVAL) { // in use, or a TUN
			return false, err
		}
		if err := d.nl.LinkDel(link); err != nil {
			return false, fmt.Errorf("delete device %s: %w", fabric.SlowDevice, err)
		}
	}
	if d.file, err = openQueue(d.ns); err != nil {
		return false, err
	}
	link, err = d.link()
	if err == nil && link == nil {
		err = fmt.Errorf("find device %s: %w", fabric.SlowDevice, unix.ENODEV)
	}
	if err != nil {
		return true, err
	}
	d.index = link.Attrs().Index
	return true, nil
}

// link returns the fabric's device with the slow path's name, nil if there is none, or an error
// wrapping ErrForeign if it is no TUN or TAP.
func (d *device) link() (netlink.Link, error) {
	link, err := d.nl.LinkByName(fabric.SlowDevice)
	if _, none := errors.AsType[netlink.LinkNotFoundError](err); none {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find device %s: %w", fabric.SlowDevice, err)
	}
	if _, ok := link.(*netlink.Tuntap); !ok {
		return nil, fmt.Errorf("%w: device %s is of type %s", ErrForeign, fabric.SlowDevice, link.Type())
	}
	return link, nil
}

// flags are those of the device (Documentation/networking/tuntap.rst): Ethernet frames, nothing
// before them.
const flags = unix.IFF_TAP | unix.IFF_NO_PI

// adopt takes a second descriptor of the device's queue that an earlier process had, and tells
// whether it is that.
func (d *device) adopt(kept *os.File) bool {
	raw, err := kept.SyscallConn()
	if err != nil {
		return false
	}
	fd := -1
	err = raw.Control(func(old uintptr) {
		if d.isQueue(int(old)) {
			fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
		}
	})
	if err != nil || fd < 0 {
		return false
	}
	d.file, err = pollable(fd)
	return err == nil
}

// isQueue tells whether a descriptor is a queue of the fabric's device.
func (d *device) isQueue(fd int) bool {
	ifr, err := unix.NewIfreq("")
	if err != nil || unix.IoctlIfreq(fd, unix.TUNGETIFF, ifr) != nil {
		return false // also if its device is gone: EBADFD
	}
	const look = unix.IFF_TUN | unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR | unix.IFF_MULTI_QUEUE
	if ifr.Name() != fabric.SlowDevice || ifr.Uint16()&look != flags {
		return false
	}
	ns, err := netns.OfSocket(fd) // a queue knows the same ioctl
	if err != nil {
		return false
	}
	defer ns.Close() //nolint:errcheck // a handle
	return ns.Inode() == d.ns.Inode()
}

// gone tells whether somebody deleted the device.
func (d *device) gone() bool {
	raw, err := d.file.SyscallConn()
	if err != nil {
		return false
	}
	attached := true
	err = raw.Control(func(fd uintptr) { attached = d.isQueue(int(fd)) })
	return err == nil && !attached
}

// openQueue opens the queue of the device in a namespace, and makes the device if there is none.
// The device is to outlive the process.
func openQueue(ns *netns.NS) (*os.File, error) {
	fd := -1
	err := ns.Do(func() (err error) {
		// The namespace is that of the thread which opens it (tun_chr_open).
		fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun (is the kernel's module tun loaded?): %w", err)
	}
	ifr, err := unix.NewIfreq(fabric.SlowDevice)
	if err == nil {
		ifr.SetUint16(flags)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr)
	}
	if err == nil {
		err = unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open device %s: %w", fabric.SlowDevice, err), unix.Close(fd))
	}
	return pollable(fd)
}

// pollable makes a file of a descriptor. Only now may the poller learn of it: a queue without a
// device is an error to epoll.
func pollable(fd int) (*os.File, error) {
	if err := unix.SetNonblock(fd, true); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), fabric.SlowDevice), nil
}

// remove deletes the device, and with it its routes.
func (d *device) remove() error {
	link, err := d.link()
	if err != nil || link == nil {
		return err
	}
	if err := d.nl.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("delete device %s: %w", fabric.SlowDevice, err)
	}
	return nil
}

// close drops all handles. The device stays.
func (d *device) close() error {
	var errs []error
	if d.file != nil {
		if err := d.file.Close(); !errors.Is(err, os.ErrClosed) {
			errs = append(errs, err)
		}
	}
	if d.nl != nil {
		d.nl.Close()
	}
	return errors.Join(append(errs, d.ns.Close())...)
}

// dropped is how many packets the kernel dropped since they came faster than they were read.
func (d *device) dropped() uint64 {
	link, err := d.nl.LinkByIndex(d.index)
	if err != nil || link.Attrs().Statistics == nil {
		return 0
	}
	return link.Attrs().Statistics.TxDropped
}
