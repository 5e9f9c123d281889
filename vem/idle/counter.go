package idle

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/payload"
	"github.com/snapctl/snapctl/vem/wake"
)

// counter counts packets with payload, between an app and sources that are not
// ignored: TCP segments that come in, datagrams too, and with ignored sources those that
// go out. It is a packet socket that nobody reads: the kernel counts what passes its
// filter, whether there is room for it or not (net/packet/af_packet.c, packet_rcv).
type counter struct{ fd int }

func newCounter(opt Options) (*counter, error) {
	c := &counter{fd: -1}
	if err := opt.NS.Do(func() error { return c.open(opt) }); err != nil {
		return nil, fmt.Errorf("count packets: %w", err)
	}
	return c, nil
}

// open makes the socket in the calling thread's namespace. It is bound to a protocol
// only once its filter is there, and to the device, lest packets of all other apps are
// shown to it before it turns them down (before Linux 6.18 those that listen for all
// devices are in one list for all namespaces: net/core/dev.c, ptype_head).
func (c *counter) open(opt Options) (err error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}()
	filter := payload.Filter{UDP: payload.In}
	for _, prefix := range opt.Policy.Ignore {
		filter.Ignore = append(filter.Ignore, wake.Unmap(prefix))
	}
	if len(filter.Ignore) > 0 {
		filter.UDP = payload.Both
	} else if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1); err != nil {
		return fmt.Errorf("ignore outgoing packets: %w", err) // Linux 4.20: not even copied for it
	}
	if err := filter.Attach(fd); err != nil {
		return err
	}
	// Room for next to nothing: only the count is of use.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 1); err != nil {
		return err
	}
	dev, err := net.InterfaceByName(opt.Device)
	if err != nil {
		return fmt.Errorf("find device %s: %w", opt.Device, err)
	}
	const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network byte order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}); err != nil {
		return fmt.Errorf("listen on %s: %w", opt.Device, err)
	}
	c.fd = fd
	return nil
}

// read returns how many packets there were since it was read last.
func (c *counter) read() (uint32, error) {
	stats, err := unix.GetsockoptTpacketStats(c.fd, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return 0, fmt.Errorf("read packet counter: %w", err)
	}
	return stats.Packets, nil // those that were dropped are among them: packet_getsockopt
}

func (c *counter) close() error {
	if c.fd < 0 {
		return nil
	}
	err := unix.Close(c.fd)
	c.fd = -1
	return err
}

// datagramsSent reads how many datagrams a namespace has sent.
func datagramsSent(ns sockdiag.NetNS) (sum uint64, err error) {
	err = ns.Do(func() error {
		// /proc/thread-self is this thread's view: its network namespace.
		four, err := readCounter("/proc/thread-self/net/snmp", "Udp:", "OutDatagrams")
		if err != nil {
			return err
		}
		six, err := readCounter("/proc/thread-self/net/snmp6", "Udp6OutDatagrams", "")
		sum = four + six
		return err
	})
	return sum, err
}

// readCounter reads one counter in one of two formats: in snmp, a line that begins with
// key has the names, and the next such line the values; in snmp6 each line is a name and a
// value. Without IPv6 there is no snmp6.
func readCounter(file, key, name string) (uint64, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read counters: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	var names []string
	for in := bufio.NewScanner(f); in.Scan(); {
		switch fields := strings.Fields(in.Text()); {
		case len(fields) < 2 || fields[0] != key:
		case name == "":
			return strconv.ParseUint(fields[1], 10, 64)
		case names == nil:
			names = fields
		default:
			for i, n := range names {
				if n == name && i < len(fields) {
					return strconv.ParseUint(fields[i], 10, 64)
				}
			}
		}
	}
	return 0, nil
}
