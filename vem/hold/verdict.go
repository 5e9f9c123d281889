package hold

import (
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Fate is what becomes of one open file in a hibernation.
type Fate int

// The fates.
const (
	Saved   Fate = iota // CRIU writes it into the snapshot and makes a new one
	Held                // the VEM keeps the kernel object
	Refused             // neither can; the app cannot be hibernated
)

// String gives the fate's name.
func (f Fate) String() string {
	switch f {
	case Saved:
		return "saved"
	case Held:
		return "held"
	case Refused:
		return "refused"
	default:
		return "fate_" + strconv.Itoa(int(f))
	}
}

// Facts is what [Decide] needs to know of one open file. The zero value of a
// field that was not looked at never leads to a refusal.
type Facts struct {
	Mode uint32 // st_mode; an anonymous inode has no type bits
	Rdev uint64 // st_rdev of a device
	Link string // what /proc/PID/fd/N shows; may be empty except for anonymous inodes
	// NotOpen: an O_PATH descriptor, which names a file without opening it.
	NotOpen bool
	// Outside: what the file leads to is not in the app: a unix socket's peer, or
	// a pidfd's process.
	Outside bool
	// Foreign: a unix socket or its peer belongs to a network namespace that
	// nobody knows, or it waits at a listener in another one than the app's.
	Foreign bool
	// Abandoned: a client in a unix listener's accept queue has closed its end.
	Abandoned bool
	// Unaccepted: one of the app's own has written something already.
	Unaccepted bool
	// Signed: messages wait in a unix socket that is told who sent them, or when
	// (SO_PASSCRED, SO_PASSPIDFD, SO_TIMESTAMP).
	Signed bool

	Family, Type, Proto int // of a socket
	Listening           bool
	Corked              bool // UDP_CORK is on
	Queued              bool // netlink: messages wait to be read
}

// Verdict is the outcome for one open file. Of a refused one, What names the
// thing and Remedy says what the user can do. A saved one has them if something
// of it may be lost.
type Verdict struct {
	Fate   Fate
	Kind   Kind
	What   string
	Remedy string
}

// Refusal is the error for a refused descriptor.
func (v Verdict) Refusal(pid, fd int) error {
	return &UnsupportedError{PID: pid, FD: fd, What: v.What, Remedy: v.Remedy}
}

// Refuse makes the verdict on something that can be neither held nor saved.
func Refuse(kind Kind, what, remedy string) Verdict {
	return Verdict{Fate: Refused, Kind: kind, What: what, Remedy: remedy}
}

// Decide says what becomes of an open file. It only computes.
//
// What CRIU 4.2 saves and what it refuses was read in criu/files.c
// (dump_one_file), sockets.c (dump_socket), sk-inet.c (can_dump_ipproto,
// do_dump_one_inet_fd), sk-netlink.c, tun.c, pidfd.c and bpfmap.c.
func Decide(f Facts) Verdict {
	switch f.Mode & unix.S_IFMT {
	case unix.S_IFSOCK:
		return decideSocket(f)
	case unix.S_IFCHR:
		return decideDevice(f)
	case unix.S_IFBLK:
		return Refuse(Other, "block device "+describe(f), "close the device before hibernating")
	case 0:
		return decideAnonymous(f)
	default:
		return decideRegular(f)
	}
}

func decideSocket(f Facts) Verdict {
	if f.NotOpen {
		return Refuse(Other, "O_PATH descriptor of a unix socket file", "the app must close it: CRIU cannot save it")
	}
	switch f.Family {
	case unix.AF_INET, unix.AF_INET6:
		return decideInet(f)
	case unix.AF_UNIX:
		return decideUnix(f)
	case unix.AF_NETLINK:
		if f.Queued {
			return Refuse(Netlink, "netlink socket with messages that wait to be read",
				"try again: the app has to read them first")
		}
		return Verdict{Fate: Saved, Kind: Netlink}
	case unix.AF_PACKET:
		// Tried with CRIU 4.2.1 and an external network namespace: it comes back,
		// bound as before, and empty.
		return Verdict{
			Kind: Packet, What: "packet socket",
			Remedy: "stop packet capture before hibernating: what comes in while the app sleeps is not captured, and does not wake it",
		}
	default:
		return Refuse(Other, familyName(f.Family)+" socket", "the app must close it: CRIU cannot save this family")
	}
}

func decideUnix(f Facts) Verdict {
	kind := Unix
	if f.Listening {
		kind = UnixListen
	}
	switch {
	case f.Foreign:
		// CRIU looks for unix sockets in the app's namespace alone (namespaces.c,
		// walk_namespaces), and fails to dump what it has not seen there: "Unix
		// socket not found", "Unix socket without peer". It is told of others, see
		// Set.Unseen, but one that waits to be accepted may not have sent anything.
		return Refuse(kind, "unix connection to another network namespace",
			"try again if it waits to be accepted; else end what is connected to a datagram socket of another app")
	case f.Abandoned:
		// sk-unix.c, dump_one_unix_fd: "Found a closed in-flight socket".
		return Refuse(kind, "unix listener with a waiting connection whose client is gone",
			"try again: the app has to accept it first")
	case f.Outside:
		return Verdict{Fate: Held, Kind: kind}
	case f.Unaccepted:
		// sk-unix.c, dump_one_unix_fd: "Non-empty write queue on an in-flight
		// socket".
		return Refuse(kind, "unix listener with a waiting connection of the app itself that has data",
			"try again: the app has to accept it first")
	case f.Signed:
		// sk-queue.c, dump_sk_queue_packet: "Control messages are not supported".
		return Refuse(kind, "unix socket with messages that wait to be read, which it is told the sender or time of (SO_PASSCRED and the like)",
			"try again: the app has to read them first")
	default:
		return Verdict{Fate: Saved, Kind: kind}
	}
}

func decideInet(f Facts) Verdict {
	if f.Type == unix.SOCK_RAW { // any protocol: can_dump_ipproto
		return Verdict{Fate: Held, Kind: Raw}
	}
	switch f.Proto {
	case unix.IPPROTO_TCP:
		if f.Listening {
			return Verdict{Fate: Held, Kind: TCPListen}
		}
		return Verdict{Fate: Held, Kind: TCP}
	case unix.IPPROTO_UDP, unix.IPPROTO_UDPLITE:
		if f.Corked {
			return Refuse(UDP, "corked UDP socket", "try again, or do not leave UDP_CORK on between datagrams")
		}
		return Verdict{Fate: Held, Kind: UDP}
	case unix.IPPROTO_ICMP, unix.IPPROTO_ICMPV6:
		return Verdict{Fate: Held, Kind: Ping}
	case unix.IPPROTO_MPTCP:
		return Refuse(Other, "MPTCP socket", "start the app with sysctl net.mptcp.enabled=0 in its network namespace, "+
			"or a Go program with GODEBUG=multipathtcp=0")
	default:
		return Refuse(Other, fmt.Sprintf("socket of IP protocol %d", f.Proto), "the app must close it: CRIU cannot save this protocol")
	}
}

// Device numbers of Documentation/admin-guide/devices.txt.
const (
	majorMem    = 1
	majorTTY    = 4
	majorTTYAux = 5
	majorMisc   = 10
	majorPTYMin = 128 // pseudo terminals: 128-135 masters, 136-143 slaves
	majorPTYMax = 143
	majorUSBTTY = 188
	majorSerial = 204

	minorMem      = 1
	minorKmem     = 2
	minorPort     = 4
	minorTun      = 200
	minorAutofs   = 235
	minorFuse     = 229
	minorVTMax    = 63
	minorAuxPtmx  = 2
	minorAuxFirst = 0
)

func decideDevice(f Facts) Verdict {
	major, minor := unix.Major(f.Rdev), unix.Minor(f.Rdev)
	ok := false
	switch {
	case major == majorMem:
		// CRIU opens any of them again by path; the raw memory ones are not the
		// same memory afterwards.
		ok = minor != minorMem && minor != minorKmem && minor != minorPort
	case major == majorTTY:
		ok = minor <= minorVTMax && minor > 0
	case major == majorTTYAux:
		ok = minor >= minorAuxFirst && minor <= minorAuxPtmx
	case major >= majorPTYMin && major <= majorPTYMax:
		ok = true
	case major == majorUSBTTY || major == majorSerial:
		ok = true
	case major == majorMisc && minor == minorAutofs:
		ok = true
	case major == majorMisc && minor == minorTun:
		// CRIU saves a TUN device only with the whole network namespace, which
		// stays in place here (tun.c, open_tunfile: "No tun device for file").
		return Refuse(Other, "TUN/TAP device "+describe(f), "close the tunnel before hibernating")
	case major == majorMisc && minor == minorFuse:
		return Refuse(Other, "FUSE connection "+describe(f), "run the file system's server outside of the app")
	}
	if ok {
		return Verdict{Fate: Saved}
	}
	return Refuse(Other, fmt.Sprintf("device %s (%d:%d)", describe(f), major, minor),
		"close the device before hibernating; only null, zero, full, random, urandom, terminals and the like can be saved")
}

func decideAnonymous(f Facts) Verdict {
	name, ok := strings.CutPrefix(f.Link, "anon_inode:")
	if !ok {
		return decideRegular(f)
	}
	name = strings.Trim(name, "[]")
	switch name {
	case "eventfd", "eventpoll", "inotify", "fanotify", "signalfd", "timerfd":
		return Verdict{Fate: Saved}
	case "pidfd":
		return decidePidfd(f)
	case "io_uring":
		return Refuse(Other, "io_uring", "switch io_uring off in the app (redis: io-threads and liburing builds, "+
			"node: UV_USE_IO_URING=0, MariaDB: --innodb-use-native-aio=0, postgres: io_method=worker) or by seccomp or sysctl kernel.io_uring_disabled=2")
	case "userfaultfd", "perf_event", "seccomp notify":
		return Refuse(Other, name, "end the debugger, profiler or supervisor in the app before hibernating")
	case "bpf-prog", "bpf_link", "btf", "bpf-map": // maps: with libbpf only, which distributions build CRIU without
		return Refuse(Other, "BPF object ("+name+")", "load BPF programs from outside of the app")
	default:
		return Refuse(Other, "anonymous file "+strconv.Quote(name), "the app must close it: CRIU cannot save it")
	}
}

func decidePidfd(f Facts) Verdict {
	if f.Outside {
		return Refuse(Other, "pidfd of a process outside of the app", "the app must close it")
	}
	return Verdict{Fate: Saved}
}

// decideRegular covers what has a path, and the pseudo file systems whose links
// look like "net:[4026531840]".
func decideRegular(f Facts) Verdict {
	switch name, _, _ := strings.Cut(f.Link, ":["); {
	case f.Link == "" || strings.HasPrefix(f.Link, "/"):
		if strings.HasPrefix(f.Link, "/secretmem") {
			return Refuse(Other, "memfd_secret", "the app must close it: nobody but the app can read it")
		}
		if strings.HasPrefix(f.Link, "/dmabuf:") {
			return Refuse(Other, "DMA buffer", "close the graphics device before hibernating")
		}
		return Verdict{Fate: Saved}
	case name == "pipe":
		return Verdict{Fate: Saved}
	case name == "pidfd":
		return decidePidfd(f)
	case isNamespace(name): // files.c, check_ns_proc
		return Verdict{Fate: Saved}
	default:
		return Refuse(Other, "file "+strconv.Quote(f.Link), "the app must close it: CRIU cannot save it")
	}
}

func isNamespace(name string) bool {
	switch name {
	case "net", "ipc", "uts", "pid", "mnt", "user", "time", "cgroup":
		return true
	default:
		return false
	}
}

func describe(f Facts) string {
	if f.Link != "" {
		return f.Link
	}
	return fmt.Sprintf("%d:%d", unix.Major(f.Rdev), unix.Minor(f.Rdev))
}

func familyName(family int) string {
	switch family {
	case unix.AF_VSOCK:
		return "vsock"
	case unix.AF_ALG:
		return "AF_ALG (kernel crypto)"
	case unix.AF_BLUETOOTH:
		return "Bluetooth"
	case unix.AF_CAN:
		return "CAN"
	case unix.AF_XDP:
		return "AF_XDP"
	case unix.AF_TIPC:
		return "TIPC"
	case unix.AF_RDS:
		return "RDS"
	case unix.AF_SMC:
		return "SMC"
	case unix.AF_KEY:
		return "PF_KEY"
	default:
		return fmt.Sprintf("address family %d", family)
	}
}
