package plain

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/sockopt"
)

// group names the sockets among which the kernel chooses one for what arrives at their port
// (net/ipv4/udp.c, udp_reuseport_add_sock).
type group struct {
	family, proto int
	local         string
	device        string
	only          bool
	uid           uint32
}

// join tells which socket of its group this one is: the kernel counts them in the order in
// which they get the port. It is -1 of a socket that has its port alone.
func (m *Maker) join(s *Socket) int {
	shares := slices.ContainsFunc(s.Settings.Options, func(o sockopt.Option) bool { return o.Level == unix.SOL_SOCKET && o.Name == unix.SO_REUSEPORT })
	if !shares || s.Type != unix.SOCK_DGRAM || !s.bound() {
		return -1
	}
	g := group{s.Family, s.Proto, s.Local.String(), s.Settings.Device, s.Settings.OnlyIPv6, s.Settings.UID}
	m.groups[g]++
	return m.groups[g] - 1
}

// choose has a socket of a group get all that arrives for the group, by a program that
// chooses it.
func choose(fd, index int) error {
	always := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(index)}
	if err := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_REUSEPORT_CBPF, &unix.SockFprog{Len: 1, Filter: &always}); err != nil {
		return fmt.Errorf("choose among the sockets of a port: %w", err)
	}
	return nil
}

// chooseAny has the kernel choose again. Needs Linux 5.3.
func chooseAny(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DETACH_REUSEPORT_BPF, 0); err != nil {
		return fmt.Errorf("no longer choose among the sockets of a port: %w", err)
	}
	return nil
}
