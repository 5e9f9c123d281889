package tcprepair

import (
	"bytes"
	"fmt"

	"golang.org/x/sys/unix"
)

// Options that golang.org/x/sys/unix has no name for.
const (
	soBufLock       = 72 // SO_BUF_LOCK, Linux 5.16
	soTxRehash      = 74 // SO_TXREHASH, Linux 5.18
	tcpRTOMaxMillis = 44 // TCP_RTO_MAX_MS, Linux 6.15
	tcpRTOMinMicros = 45 // TCP_RTO_MIN_US, Linux 6.19
	tcpDelAckMicros = 46 // TCP_DELACK_MAX_US, Linux 6.19
)

// stage is when an option is set on a new socket.
type stage int

const (
	early stage = iota // before it has an address
	late               // when it is connected
)

// kind is an option that is saved and restored.
type kind struct {
	level, name, size int
	when              stage
}

// kinds are those options whose values can be read and written back. What only acts
// before a connection is there (TCP_DEFER_ACCEPT, IP_LOCAL_PORT_RANGE) or passes
// (TCP_QUICKACK) is none of them.
var kinds = []kind{
	{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 4, early},
	{unix.IPPROTO_IP, unix.IP_FREEBIND, 4, early},
	{unix.IPPROTO_IP, unix.IP_TRANSPARENT, 4, early},

	{unix.SOL_SOCKET, unix.SO_DONTROUTE, 4, late},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE, 4, late},
	{unix.SOL_SOCKET, unix.SO_LINGER, 8, late},
	{unix.SOL_SOCKET, unix.SO_RCVLOWAT, 4, late},
	{unix.SOL_SOCKET, unix.SO_RCVTIMEO, 16, late},
	{unix.SOL_SOCKET, unix.SO_SNDTIMEO, 16, late},
	{unix.SOL_SOCKET, unix.SO_MARK, 4, late},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP, 4, late},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 4, late},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP_NEW, 4, late},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 4, late},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPING, 4, late},
	{unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 4, late},
	{unix.SOL_SOCKET, unix.SO_BUSY_POLL, 4, late},
	{unix.SOL_SOCKET, unix.SO_PREFER_BUSY_POLL, 4, late},
	{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 8, late},
	{unix.SOL_SOCKET, unix.SO_ZEROCOPY, 4, late},
	{unix.SOL_SOCKET, soTxRehash, 4, late},
	{unix.SOL_SOCKET, unix.SO_REUSEPORT, 4, late},

	{unix.IPPROTO_IP, unix.IP_TOS, 4, late},
	{unix.IPPROTO_IP, unix.IP_TTL, 4, late},
	{unix.IPPROTO_IP, unix.IP_MINTTL, 4, late},
	{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, 4, late},
	{unix.IPPROTO_IP, unix.IP_RECVERR, 4, late},
	{unix.IPPROTO_IP, unix.IP_PKTINFO, 4, late},
	{unix.IPPROTO_IP, unix.IP_RECVTTL, 4, late},
	{unix.IPPROTO_IP, unix.IP_RECVTOS, 4, late},
	{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 4, late},
	{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4, late},
	{unix.SOL_SOCKET, unix.SO_PRIORITY, 4, late}, // IP_TOS changes it
	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 4, late},
	{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, 4, late},
	{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 4, late},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 4, late},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 4, late},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 4, late},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 4, late},

	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4, late},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 4, late}, // after its times
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_LINGER2, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_SYNCNT, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_THIN_LINEAR_TIMEOUTS, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_INQ, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_TX_DELAY, 4, late},
	{unix.IPPROTO_TCP, tcpRTOMaxMillis, 4, late},
	{unix.IPPROTO_TCP, tcpRTOMinMicros, 4, late},
	{unix.IPPROTO_TCP, tcpDelAckMicros, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 4, late},
	{unix.IPPROTO_TCP, unix.TCP_CORK, 4, late},
}

func kindOf(o Option) (kind, bool) {
	for _, k := range kinds {
		if k.level == o.Level && k.name == o.Name {
			return k, true
		}
	}
	return kind{}, false
}

// save reads the options of a socket that is not in repair mode.
func (o *Options) save(fd, family int) error {
	var buf [16]byte
	for _, k := range kinds {
		if k.level == unix.IPPROTO_IPV6 && family != unix.AF_INET6 {
			continue
		}
		v, err := getOption(fd, k.level, k.name, buf[:k.size])
		if missing(err) {
			continue
		}
		if err != nil {
			return fmt.Errorf("read option %d of level %d: %w", k.name, k.level, err)
		}
		o.List = append(o.List, Option{k.level, k.name, bytes.Clone(v)})
	}
	var err error
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
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return fmt.Errorf("read flags: %w", err)
	}
	owner, err := unix.FcntlInt(uintptr(fd), unix.F_GETOWN, 0)
	if err != nil {
		return fmt.Errorf("read F_GETOWN: %w", err)
	}
	if flags&unix.O_ASYNC != 0 || owner != 0 {
		return unsupported("a process has itself sent signals by it (F_SETOWN)")
	}
	return nil
}

// apply sets the options of a stage that differ from those of the new socket.
func (o *Options) apply(fd int, when stage) error {
	var buf [16]byte
	for _, opt := range o.List {
		k, ok := kindOf(opt)
		if !ok || k.when != when {
			continue
		}
		have, err := getOption(fd, k.level, k.name, buf[:k.size])
		if missing(err) || err == nil && bytes.Equal(have, opt.Value) {
			continue // an older kernel, or an IPv6 socket that has no IPv4 address yet
		}
		if err := setOption(fd, k.level, k.name, opt.Value); err != nil {
			return fmt.Errorf("set option %d of level %d: %w", k.name, k.level, err)
		}
	}
	if when == early {
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
