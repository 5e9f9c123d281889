package sockopt

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Group is a multicast group that a socket is a member of, at a device. Of Sources it
// wants to hear nobody else or, with Exclude, everybody else.
type Group struct {
	Address netip.Addr   `json:"address"`
	Device  string       `json:"device"`
	Exclude bool         `json:"exclude"`
	Sources []netip.Addr `json:"sources,omitempty"`
}

// seat is a group that some socket of a namespace is a member of.
type seat struct {
	group  netip.Addr
	device int
}

// seats lists the groups of all sockets of the calling thread's network namespace. Which
// socket has joined which the kernel lists nowhere: it has to be asked for each.
func seats() ([]seat, error) {
	four, err := readSeats("/proc/thread-self/net/igmp", parseIGMP)
	if err != nil {
		return nil, err
	}
	six, err := readSeats("/proc/thread-self/net/igmp6", parseIGMP6)
	return append(four, six...), err
}

func readSeats(path string, parse func(string) []seat) ([]seat, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // a kernel without
	}
	if err != nil {
		return nil, fmt.Errorf("list multicast groups: %w", err)
	}
	return parse(string(b)), nil
}

// parseIGMP reads /proc/net/igmp (net/ipv4/igmp.c, igmp_mc_seq_show): a line for each
// device, and below it one for each group, as the number that is in memory.
func parseIGMP(text string) []seat {
	var list []seat
	device := 0
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		fields := strings.Fields(line)
		switch {
		case len(fields) == 0:
		case !strings.HasPrefix(line, "\t"):
			device, _ = strconv.Atoi(fields[0])
		default:
			n, err := strconv.ParseUint(fields[0], 16, 32)
			if err != nil || device == 0 {
				continue
			}
			var b [4]byte
			binary.NativeEndian.PutUint32(b[:], uint32(n))
			list = append(list, seat{netip.AddrFrom4(b), device})
		}
	}
	return list
}

// parseIGMP6 reads /proc/net/igmp6 (net/ipv6/mcast.c, igmp6_mc_seq_show).
func parseIGMP6(text string) []seat {
	var list []seat
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) < 3 {
			continue
		}
		device, err := strconv.Atoi(fields[0])
		b, herr := hex.DecodeString(fields[2])
		if addr, ok := netip.AddrFromSlice(b); ok && err == nil && herr == nil && addr.Is6() {
			list = append(list, seat{addr, device})
		}
	}
	return list
}

// memberships asks for each group of the namespace whether the socket has joined it.
func (r *Reader) memberships(fd, family int) ([]Group, error) {
	if err := r.look(); err != nil {
		return nil, err
	}
	var list []Group
	for _, s := range r.groups {
		if s.group.Is6() && family != unix.AF_INET6 {
			continue
		}
		g, ok, err := filterOf(fd, s)
		if err != nil {
			return nil, err
		}
		if ok {
			g.Device = r.device(s.device)
			list = append(list, g)
		}
	}
	return list, nil
}

// mcastFilter is MCAST_MSFILTER of linux/in.h. Its value is a struct group_filter: the
// device, a struct sockaddr_storage of the group, the mode and the number of sources,
// and those.
const (
	mcastJoinGroup = 42 // MCAST_JOIN_GROUP
	mcastFilter    = 48
	filterGroup    = 8 // the pointer's size aligns the address
	storage        = 128
	filterMode     = filterGroup + storage
	filterSources  = filterMode + 8
	modeExclude    = 0
	modeInclude    = 1
)

func level(a netip.Addr) int {
	if a.Is4() {
		return unix.IPPROTO_IP
	}
	return unix.IPPROTO_IPV6
}

// filterOf reads the socket's filter for a group; ok is false if it is no member.
func filterOf(fd int, s seat) (_ Group, ok bool, err error) {
	for room := 16; ; room *= 4 {
		b := make([]byte, filterSources+room*storage)
		binary.NativeEndian.PutUint32(b, uint32(s.device))
		putAddr(b[filterGroup:], s.group)
		binary.NativeEndian.PutUint32(b[filterMode+4:], uint32(room))
		v, err := Get(fd, level(s.group), mcastFilter, b)
		if errors.Is(err, unix.EADDRNOTAVAIL) || Missing(err) {
			return Group{}, false, nil
		}
		if err != nil {
			return Group{}, false, fmt.Errorf("group %s: %w", s.group, err)
		}
		n := int(binary.NativeEndian.Uint32(b[filterMode+4:]))
		if n > room {
			continue
		}
		g := Group{Address: s.group, Exclude: binary.NativeEndian.Uint32(b[filterMode:]) == modeExclude}
		for i := range n {
			at := filterSources + i*storage
			if at+storage > len(v) {
				break
			}
			g.Sources = append(g.Sources, getAddr(v[at:]))
		}
		return g, true, nil
	}
}

// join makes a socket a member of a group, at a device.
func (g *Group) join(fd, device int) error {
	b := make([]byte, filterGroup+storage) // struct group_req
	binary.NativeEndian.PutUint32(b, uint32(device))
	putAddr(b[filterGroup:], g.Address)
	if err := Set(fd, level(g.Address), mcastJoinGroup, b); err != nil && !errors.Is(err, unix.EADDRINUSE) {
		return err
	}
	if g.Exclude && len(g.Sources) == 0 {
		return nil
	}
	b = make([]byte, filterSources+len(g.Sources)*storage)
	binary.NativeEndian.PutUint32(b, uint32(device))
	putAddr(b[filterGroup:], g.Address)
	mode := uint32(modeExclude)
	if !g.Exclude {
		mode = modeInclude
	}
	binary.NativeEndian.PutUint32(b[filterMode:], mode)
	binary.NativeEndian.PutUint32(b[filterMode+4:], uint32(len(g.Sources)))
	for i, a := range g.Sources {
		putAddr(b[filterSources+i*storage:], a)
	}
	return Set(fd, level(g.Address), mcastFilter, b)
}

// putAddr writes a struct sockaddr_in or sockaddr_in6.
func putAddr(b []byte, a netip.Addr) {
	if a.Is4() {
		binary.NativeEndian.PutUint16(b, unix.AF_INET)
		v := a.As4()
		copy(b[4:], v[:])
		return
	}
	binary.NativeEndian.PutUint16(b, unix.AF_INET6)
	v := a.As16()
	copy(b[8:], v[:])
}

func getAddr(b []byte) netip.Addr {
	if binary.NativeEndian.Uint16(b) == unix.AF_INET {
		return netip.AddrFrom4([4]byte(b[4:8]))
	}
	return netip.AddrFrom16([16]byte(b[8:24]))
}
