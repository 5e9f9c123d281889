// Package sockopt reads the options of sockets, and sets them on others.
//
// A socket that is held stays what it is (package hold). A copy of an app gets sockets
// of its own: CRIU makes them, and sets those options of them that it knows, some
// thirty. This package has all others whose values the kernel tells:
//
//	Reader.Read ──▶ Saved ──▶ Encode ... Decode ──▶ Socket.Apply
//	 while the app is frozen    a small file         when the processes are there,
//	                                                 and before they run
//
// Only what differs from a new socket's in the same namespace is kept, so that most sockets
// need nothing. The options are set through duplicates of the processes' own descriptors
// (pidfd_getfd(2)). What can't be set is told, and no reason to fail. A hibernated app has
// the file too, for sockets that are not held. Which socket has joined a multicast group the
// kernel lists nowhere, so each is asked (MCAST_MSFILTER).
//
// The kernel tells nobody which program chooses among the sockets of a port
// (SO_ATTACH_REUSEPORT_CBPF and _EBPF), what TCP_MD5SIG has set, and which device
// IP_MULTICAST_IF has set by its index alone.
package sockopt

import (
	"slices"

	"golang.org/x/sys/unix"
)

// Class is a set of kinds of sockets.
type Class int

// The kinds of sockets.
const (
	Connection Class = 1 << iota // TCP, connected; for package tcprepair
	TCP                          // TCP, not connected: listeners, mostly
	UDP                          // and UDP-Lite
	Raw                          // and ping sockets
	Unix
	Netlink

	inet = TCP | UDP | Raw
	all  = Connection | inet | Unix | Netlink
)

// Kind is an option whose value can be read and written back.
type Kind struct {
	Level, Name int
	Size        int // of the value at most, in bytes
	Label       string
	For         Class
	device      deviceValue
}

// deviceValue says how an option names a network device.
type deviceValue int

const (
	noDevice   deviceValue = iota
	index                  // by its number, as an int
	indexOfNet             // likewise, in network byte order
)

// Options that golang.org/x/sys/unix has no name for.
const (
	soTxRehash       = 74 // SO_TXREHASH, Linux 5.18
	soRcvMark        = 75 // SO_RCVMARK, Linux 5.19
	soRcvPriority    = 82 // SO_RCVPRIORITY, Linux 6.14
	soPassRights     = 83 // SO_PASSRIGHTS, Linux 6.16
	ipRecvErr4884    = 26 // IP_RECVERR_RFC4884, Linux 5.9
	ipLocalPortRange = 51 // IP_LOCAL_PORT_RANGE, Linux 6.3
	ip6MulticastAll  = 29 // IPV6_MULTICAST_ALL
	ip6RecvErr4884   = 31 // IPV6_RECVERR_RFC4884, Linux 5.9
	ip6FlowInfo      = 11 // IPV6_FLOWINFO
	ip6FlowInfoSend  = 33 // IPV6_FLOWINFO_SEND
	udpNoCheck6TX    = 101
	udpNoCheck6RX    = 102
	udpSegment       = 103
	udpGRO           = 104
	tcpFastopenQLen  = 23
	tcpRTOMaxMillis  = 44 // TCP_RTO_MAX_MS, Linux 6.15
	tcpRTOMinMicros  = 45 // TCP_RTO_MIN_US, Linux 6.19
	tcpDelAckMicros  = 46 // TCP_DELACK_MAX_US, Linux 6.19
	solUDPLite       = 136
)

// table is in the order in which options are to be set.
var table = []Kind{
	{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 4, "IPV6_V6ONLY", Connection, 0},
	{unix.IPPROTO_IP, unix.IP_FREEBIND, 4, "IP_FREEBIND", Connection | inet, 0},
	{unix.IPPROTO_IP, unix.IP_TRANSPARENT, 4, "IP_TRANSPARENT", Connection | inet, 0},

	{unix.SOL_SOCKET, unix.SO_DONTROUTE, 4, "SO_DONTROUTE", all, 0},
	{unix.SOL_SOCKET, unix.SO_BROADCAST, 4, "SO_BROADCAST", inet, 0},
	{unix.SOL_SOCKET, unix.SO_NO_CHECK, 4, "SO_NO_CHECK", UDP, 0},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE, 4, "SO_OOBINLINE", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_LINGER, 8, "SO_LINGER", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_RCVLOWAT, 4, "SO_RCVLOWAT", all, 0},
	{unix.SOL_SOCKET, unix.SO_RCVTIMEO, 16, "SO_RCVTIMEO", all, 0},
	{unix.SOL_SOCKET, unix.SO_SNDTIMEO, 16, "SO_SNDTIMEO", all, 0},
	{unix.SOL_SOCKET, unix.SO_MARK, 4, "SO_MARK", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP, 4, "SO_TIMESTAMP", all, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 4, "SO_TIMESTAMPNS", all, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP_NEW, 4, "SO_TIMESTAMP_NEW", all, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS_NEW, 4, "SO_TIMESTAMPNS_NEW", all, 0},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPING, 4, "SO_TIMESTAMPING", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 4, "SO_RXQ_OVFL", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_SELECT_ERR_QUEUE, 4, "SO_SELECT_ERR_QUEUE", inet, 0},
	{unix.SOL_SOCKET, unix.SO_WIFI_STATUS, 4, "SO_WIFI_STATUS", inet, 0},
	{unix.SOL_SOCKET, unix.SO_BUSY_POLL, 4, "SO_BUSY_POLL", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_PREFER_BUSY_POLL, 4, "SO_PREFER_BUSY_POLL", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_MAX_PACING_RATE, 8, "SO_MAX_PACING_RATE", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_ZEROCOPY, 4, "SO_ZEROCOPY", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_TXTIME, 8, "SO_TXTIME", inet, 0},
	{unix.SOL_SOCKET, unix.SO_INCOMING_CPU, 4, "SO_INCOMING_CPU", TCP, 0},
	{unix.SOL_SOCKET, soTxRehash, 4, "SO_TXREHASH", Connection | TCP, 0},
	{unix.SOL_SOCKET, soRcvMark, 4, "SO_RCVMARK", inet, 0},
	{unix.SOL_SOCKET, soRcvPriority, 4, "SO_RCVPRIORITY", inet, 0},
	{unix.SOL_SOCKET, unix.SO_REUSEPORT, 4, "SO_REUSEPORT", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_PEEK_OFF, 4, "SO_PEEK_OFF", UDP | Unix, 0},
	{unix.SOL_SOCKET, soPassRights, 4, "SO_PASSRIGHTS", Unix, 0},
	{unix.SOL_SOCKET, unix.SO_LOCK_FILTER, 4, "SO_LOCK_FILTER", inet | Unix | Netlink, 0},

	{unix.IPPROTO_IP, unix.IP_TOS, 4, "IP_TOS", Connection | inet, 0},
	{unix.IPPROTO_IP, unix.IP_TTL, 4, "IP_TTL", Connection | inet, 0},
	{unix.IPPROTO_IP, unix.IP_MINTTL, 4, "IP_MINTTL", Connection | inet, 0},
	{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, 4, "IP_MTU_DISCOVER", Connection | inet, 0},
	{unix.IPPROTO_IP, unix.IP_RECVERR, 4, "IP_RECVERR", Connection | inet, 0},
	{unix.IPPROTO_IP, ipRecvErr4884, 4, "IP_RECVERR_RFC4884", inet, 0},
	{unix.IPPROTO_IP, unix.IP_PKTINFO, 4, "IP_PKTINFO", Connection | inet, 0},
	{unix.IPPROTO_IP, unix.IP_RECVTTL, 4, "IP_RECVTTL", Connection | inet, 0},
	{unix.IPPROTO_IP, unix.IP_RECVTOS, 4, "IP_RECVTOS", Connection | inet, 0},
	{unix.IPPROTO_IP, unix.IP_RECVOPTS, 4, "IP_RECVOPTS", inet, 0},
	{unix.IPPROTO_IP, unix.IP_RETOPTS, 4, "IP_RETOPTS", inet, 0},
	{unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR, 4, "IP_RECVORIGDSTADDR", inet, 0},
	{unix.IPPROTO_IP, unix.IP_RECVFRAGSIZE, 4, "IP_RECVFRAGSIZE", inet, 0},
	{unix.IPPROTO_IP, unix.IP_CHECKSUM, 4, "IP_CHECKSUM", inet, 0},
	{unix.IPPROTO_IP, unix.IP_PASSSEC, 4, "IP_PASSSEC", inet, 0},
	{unix.IPPROTO_IP, unix.IP_NODEFRAG, 4, "IP_NODEFRAG", Raw, 0},
	{unix.IPPROTO_IP, unix.IP_HDRINCL, 4, "IP_HDRINCL", Raw, 0},
	{unix.IPPROTO_IP, unix.IP_OPTIONS, maxValue, "IP_OPTIONS", inet, 0},
	{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 4, "IP_BIND_ADDRESS_NO_PORT", Connection | inet, 0},
	{unix.IPPROTO_IP, ipLocalPortRange, 4, "IP_LOCAL_PORT_RANGE", inet, 0},
	{unix.IPPROTO_IP, unix.IP_UNICAST_IF, 4, "IP_UNICAST_IF", inet, indexOfNet},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 4, "IP_MULTICAST_TTL", UDP | Raw, 0}, // of an accepted connection it is another thing (net/ipv4/tcp_ipv4.c),
	{unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 4, "IP_MULTICAST_LOOP", inet, 0},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 4, "IP_MULTICAST_ALL", inet, 0},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_IF, 4, "IP_MULTICAST_IF", UDP | Raw, 0},

	{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4, "IPV6_TCLASS", Connection | inet, 0},
	{unix.SOL_SOCKET, unix.SO_PRIORITY, 4, "SO_PRIORITY", all, 0}, // IP_TOS changes it
	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 4, "IPV6_UNICAST_HOPS", Connection | inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_MINHOPCOUNT, 4, "IPV6_MINHOPCOUNT", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, 4, "IPV6_MTU_DISCOVER", Connection | inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 4, "IPV6_DONTFRAG", Connection | inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 4, "IPV6_RECVERR", Connection | inet, 0},
	{unix.IPPROTO_IPV6, ip6RecvErr4884, 4, "IPV6_RECVERR_RFC4884", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 4, "IPV6_RECVPKTINFO", Connection | inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 4, "IPV6_RECVHOPLIMIT", Connection | inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 4, "IPV6_RECVTCLASS", Connection | inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPOPTS, 4, "IPV6_RECVHOPOPTS", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVRTHDR, 4, "IPV6_RECVRTHDR", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVDSTOPTS, 4, "IPV6_RECVDSTOPTS", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPATHMTU, 4, "IPV6_RECVPATHMTU", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVORIGDSTADDR, 4, "IPV6_RECVORIGDSTADDR", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVFRAGSIZE, 4, "IPV6_RECVFRAGSIZE", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_2292PKTINFO, 4, "IPV6_2292PKTINFO", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_2292HOPLIMIT, 4, "IPV6_2292HOPLIMIT", inet, 0},
	{unix.IPPROTO_IPV6, ip6FlowInfo, 4, "IPV6_FLOWINFO", inet, 0},
	{unix.IPPROTO_IPV6, ip6FlowInfoSend, 4, "IPV6_FLOWINFO_SEND", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_AUTOFLOWLABEL, 4, "IPV6_AUTOFLOWLABEL", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_ADDR_PREFERENCES, 4, "IPV6_ADDR_PREFERENCES", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_HDRINCL, 4, "IPV6_HDRINCL", Raw, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_CHECKSUM, 4, "IPV6_CHECKSUM", Raw, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_IF, 4, "IPV6_UNICAST_IF", inet, indexOfNet},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 4, "IPV6_MULTICAST_HOPS", UDP | Raw, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 4, "IPV6_MULTICAST_LOOP", inet, 0},
	{unix.IPPROTO_IPV6, ip6MulticastAll, 4, "IPV6_MULTICAST_ALL", inet, 0},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, 4, "IPV6_MULTICAST_IF", UDP | Raw, index},

	{unix.IPPROTO_TCP, unix.TCP_MAXSEG, 4, "TCP_MAXSEG", TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 4, "TCP_KEEPIDLE", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 4, "TCP_KEEPINTVL", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4, "TCP_KEEPCNT", Connection | TCP, 0},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 4, "SO_KEEPALIVE", Connection | inet, 0}, // after its times
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 4, "TCP_USER_TIMEOUT", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_LINGER2, 4, "TCP_LINGER2", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_SYNCNT, 4, "TCP_SYNCNT", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_WINDOW_CLAMP, 4, "TCP_WINDOW_CLAMP", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 4, "TCP_DEFER_ACCEPT", TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, 4, "TCP_NOTSENT_LOWAT", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_THIN_LINEAR_TIMEOUTS, 4, "TCP_THIN_LINEAR_TIMEOUTS", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_INQ, 4, "TCP_INQ", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_TX_DELAY, 4, "TCP_TX_DELAY", Connection | TCP, 0},
	{unix.IPPROTO_TCP, tcpRTOMaxMillis, 4, "TCP_RTO_MAX_MS", Connection | TCP, 0},
	{unix.IPPROTO_TCP, tcpRTOMinMicros, 4, "TCP_RTO_MIN_US", Connection | TCP, 0},
	{unix.IPPROTO_TCP, tcpDelAckMicros, 4, "TCP_DELACK_MAX_US", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_SAVE_SYN, 4, "TCP_SAVE_SYN", TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_KEY, 32, "TCP_FASTOPEN_KEY", TCP, 0},
	{unix.IPPROTO_TCP, tcpFastopenQLen, 4, "TCP_FASTOPEN", TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_CONNECT, 4, "TCP_FASTOPEN_CONNECT", TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN_NO_COOKIE, 4, "TCP_FASTOPEN_NO_COOKIE", TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_CONGESTION, 16, "TCP_CONGESTION", TCP, 0}, // package tcprepair has it by itself
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 4, "TCP_NODELAY", Connection | TCP, 0},
	{unix.IPPROTO_TCP, unix.TCP_CORK, 4, "TCP_CORK", Connection | TCP, 0},

	{unix.IPPROTO_UDP, unix.UDP_ENCAP, 4, "UDP_ENCAP", UDP, 0},
	{unix.IPPROTO_UDP, udpNoCheck6TX, 4, "UDP_NO_CHECK6_TX", UDP, 0},
	{unix.IPPROTO_UDP, udpNoCheck6RX, 4, "UDP_NO_CHECK6_RX", UDP, 0},
	{unix.IPPROTO_UDP, udpSegment, 4, "UDP_SEGMENT", UDP, 0},
	{unix.IPPROTO_UDP, udpGRO, 4, "UDP_GRO", UDP, 0},
	{solUDPLite, 10, 4, "UDPLITE_SEND_CSCOV", UDP, 0},
	{solUDPLite, 11, 4, "UDPLITE_RECV_CSCOV", UDP, 0},

	{unix.SOL_RAW, 1, 4, "ICMP_FILTER", Raw, 0},
	{unix.IPPROTO_ICMPV6, 1, 32, "ICMPV6_FILTER", Raw, 0},

	{unix.SOL_NETLINK, unix.NETLINK_PKTINFO, 4, "NETLINK_PKTINFO", Netlink, 0},
	{unix.SOL_NETLINK, unix.NETLINK_BROADCAST_ERROR, 4, "NETLINK_BROADCAST_ERROR", Netlink, 0},
	{unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 4, "NETLINK_NO_ENOBUFS", Netlink, 0},
	{unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 4, "NETLINK_LISTEN_ALL_NSID", Netlink, 0},
	{unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 4, "NETLINK_CAP_ACK", Netlink, 0},
	{unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 4, "NETLINK_EXT_ACK", Netlink, 0},
	{unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 4, "NETLINK_GET_STRICT_CHK", Netlink, 0},
}

// maxValue bounds an option's value.
const maxValue = 64

// Kinds lists the options of sockets of a class, in the order in which they are to be set.
func Kinds(c Class) []Kind { return byClass[c] }

var byClass = func() map[Class][]Kind {
	m := make(map[Class][]Kind)
	for _, c := range []Class{Connection, TCP, UDP, Raw, Unix, Netlink} {
		m[c] = slices.DeleteFunc(slices.Clone(table), func(k Kind) bool { return k.For&c == 0 })
	}
	return m
}()

// Find looks an option up; ok is false if this package does not know it.
func Find(level, name int) (_ Kind, ok bool) {
	i, ok := places[[2]int{level, name}]
	if !ok {
		return Kind{}, false
	}
	return table[i], true
}

// places are those in the table, by level and name.
var places = func() map[[2]int]int {
	m := make(map[[2]int]int, len(table))
	for i, k := range table {
		m[[2]int{k.Level, k.Name}] = i
	}
	return m
}()
