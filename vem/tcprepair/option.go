package tcprepair

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/sockopt"
)

const soBufLock = 72 // SO_BUF_LOCK, Linux 5.16

// stage is when an option is set on a new socket.
type stage int

const (
	early stage = iota // before it has an address
	late               // when it is connected
	last               // when all that was unsent is in its queue
)

// stageOf is when an option is set. What only acts before a connection is there
// (TCP_DEFER_ACCEPT, IP_LOCAL_PORT_RANGE) or passes (TCP_QUICKACK) is not saved at all.
func stageOf(o Option) stage {
	switch [2]int{o.Level, o.Name} {
	case [2]int{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY}, [2]int{unix.IPPROTO_IP, unix.IP_FREEBIND}, [2]int{unix.IPPROTO_IP, unix.IP_TRANSPARENT}:
		return early
	case [2]int{unix.IPPROTO_TCP, unix.TCP_CORK}, [2]int{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT}:
		return last // the one would keep back what is sent, the other refuse to take it
	}
	return late
}

// known tells whether options of a file are such that connections have.
func known(o Option) bool {
	k, ok := sockopt.Find(o.Level, o.Name)
	return ok && k.For&sockopt.Connection != 0
}

// save reads the options of a socket that is not in repair mode.
func (o *Options) save(fd, family int) error {
	var err error
	if o.List, err = sockopt.Read(fd, sockopt.Connection, family); err != nil {
		return fmt.Errorf("read option: %w", err)
	}
	for p, name := range map[*int]int{&o.SendBuffer: unix.SO_SNDBUF, &o.ReceiveBuffer: unix.SO_RCVBUF, &o.ReuseAddress: unix.SO_REUSEADDR} {
		if *p, err = getInt(fd, unix.SOL_SOCKET, name); err != nil {
			return fmt.Errorf("read option %d: %w", name, err)
		}
	}
	if o.BufferLock, err = getInt(fd, unix.SOL_SOCKET, soBufLock); err != nil {
		o.BufferLock = -1
	}
	var name [16]byte // TCP_CA_NAME_MAX and IFNAMSIZ
	v, err := getOption(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name[:])
	if err != nil {
		return fmt.Errorf("read TCP_CONGESTION: %w", err)
	}
	o.Congestion = unix.ByteSliceToString(v)
	if v, err = getOption(fd, unix.SOL_SOCKET, unix.SO_BINDTODEVICE, name[:]); err == nil {
		o.Device = unix.ByteSliceToString(v)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("read flags: %w", err)
	}
	o.NonBlock = flags&unix.O_NONBLOCK != 0
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("find owner: %w", err)
	}
	o.UID, o.GID = st.Uid, st.Gid
	return nil
}

// refuse finds what a new socket could not be given.
func refuse(fd int) error {
	var buf [512]byte
	if v, err := getOption(fd, unix.IPPROTO_TCP, unix.TCP_ULP, buf[:16]); err == nil && len(v) > 0 {
		return unsupported("it has the upper layer %s, such as TLS by the kernel", unix.ByteSliceToString(v))
	}
	const tcpAOInfo = 40 // TCP_AO_INFO, Linux 6.7
	if _, err := getOption(fd, unix.IPPROTO_TCP, tcpAOInfo, buf[:56]); err == nil {
		return unsupported("it is authenticated by TCP-AO")
	}
	// SO_GET_FILTER is the same number. It tells how long the filter is, and EACCES if
	// that is an eBPF program (net/core/filter.c, sk_get_filter).
	if n, err := optionSize(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER); n > 0 || err != nil {
		return unsupported("it has a packet filter")
	}
	if off, err := getInt(fd, unix.SOL_SOCKET, unix.SO_PEEK_OFF); err == nil && off >= 0 {
		return unsupported("it has SO_PEEK_OFF")
	}
	if v, err := getOption(fd, unix.IPPROTO_IP, unix.IP_OPTIONS, buf[:40]); err == nil && len(v) > 0 {
		return unsupported("it has IP options")
	}
	return nil
}

// apply sets the options of a stage that differ from those of the new socket.
func (o *Options) apply(fd int, when stage) error {
	var buf [maxOption]byte
	for _, opt := range o.List {
		if stageOf(opt) != when {
			continue
		}
		have, err := getOption(fd, opt.Level, opt.Name, buf[:len(opt.Value)])
		if missing(err) || err == nil && bytes.Equal(have, opt.Value) {
			continue // an older kernel, or an IPv6 socket that has no IPv4 address yet
		}
		if err := setOption(fd, opt.Level, opt.Name, opt.Value); err != nil {
			return fmt.Errorf("set option %d of level %d: %w", opt.Name, opt.Level, err)
		}
	}
	switch when {
	case last:
		return nil
	case late:
	case early:
		if o.Device == "" {
			return nil
		}
		if err := unix.BindToDevice(fd, o.Device); err != nil {
			return fmt.Errorf("bind to device %s: %w", o.Device, err)
		}
		return nil
	}
	if o.NonBlock {
		if err := unix.SetNonblock(fd, true); err != nil {
			return fmt.Errorf("set O_NONBLOCK: %w", err)
		}
	}
	if err := unix.Fchown(fd, int(o.UID), int(o.GID)); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	var name [16]byte
	if have, err := getOption(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, name[:]); err == nil && unix.ByteSliceToString(have) == o.Congestion || o.Congestion == "" {
		return nil
	}
	if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, o.Congestion); err != nil {
		return fmt.Errorf("set TCP_CONGESTION %s: %w", o.Congestion, err)
	}
	return nil
}

// buffer gives a buffer its own size: which is SO_SNDBUFFORCE or SO_RCVBUFFORCE, and
// size the doubled one.
func buffer(fd, which, size int) error {
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, which, size/2); err != nil {
		return fmt.Errorf("set buffer size: %w", err)
	}
	return nil
}
