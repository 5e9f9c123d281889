package inspect

import (
	"context"
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	sk_inet "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-inet"
	sk_opts "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-opts"
	sk_packet "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-packet"
	sk_unix "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-unix"
	tcp_stream "github.com/checkpoint-restore/go-criu/v8/crit/images/tcp-stream"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/snapshot/image"
)

// fileName is what a file is and how it is called.
type fileName struct {
	kind FileKind
	name string
}

// The kinds of open file.
const (
	FileRegular   FileKind = "regular" // and directories and devices
	FilePipe      FileKind = "pipe"
	FileFifo      FileKind = "fifo"
	FileInet      FileKind = "inet"
	FileUnix      FileKind = "unix"
	FileEventFD   FileKind = "eventfd"
	FileEpoll     FileKind = "eventpoll"
	FileInotify   FileKind = "inotify"
	FileFanotify  FileKind = "fanotify"
	FileSignalFD  FileKind = "signalfd"
	FilePacket    FileKind = "packet"
	FileTTY       FileKind = "tty"
	FileNetlink   FileKind = "netlink"
	FileNamespace FileKind = "namespace"
	FileTun       FileKind = "tun"
	FileExternal  FileKind = "external"
	FileTimerFD   FileKind = "timerfd"
	FileMemfd     FileKind = "memfd"
	FileBPFMap    FileKind = "bpf-map"
	FilePidFD     FileKind = "pidfd"
	FileOther     FileKind = "other"
)

// nameFile names a file as the link in /proc/PID/fd would.
func nameFile(f *fdinfo.FileEntry) fileName {
	id := f.GetId()
	switch f.GetType() {
	case fdinfo.FdTypes_REG:
		return fileName{FileRegular, f.GetReg().GetName()}
	case fdinfo.FdTypes_PIPE:
		return fileName{FilePipe, fmt.Sprintf("pipe:[%d]", f.GetPipe().GetPipeId())}
	case fdinfo.FdTypes_FIFO:
		return fileName{FileFifo, fmt.Sprintf("fifo:[%d]", f.GetFifo().GetPipeId())}
	case fdinfo.FdTypes_INETSK:
		return fileName{FileInet, fmt.Sprintf("socket:[%d]", f.GetIsk().GetIno())}
	case fdinfo.FdTypes_UNIXSK:
		return fileName{FileUnix, fmt.Sprintf("socket:[%d]", f.GetUsk().GetIno())}
	case fdinfo.FdTypes_NETLINKSK:
		return fileName{FileNetlink, fmt.Sprintf("socket:[%d]", f.GetNlsk().GetIno())}
	case fdinfo.FdTypes_PACKETSK:
		return fileName{FilePacket, fmt.Sprintf("packet:[%d]", id)}
	case fdinfo.FdTypes_EVENTFD:
		return fileName{FileEventFD, "anon_inode:[eventfd]"}
	case fdinfo.FdTypes_EVENTPOLL:
		return fileName{FileEpoll, "anon_inode:[eventpoll]"}
	case fdinfo.FdTypes_INOTIFY:
		return fileName{FileInotify, "anon_inode:inotify"}
	case fdinfo.FdTypes_FANOTIFY:
		return fileName{FileFanotify, "anon_inode:[fanotify]"}
	case fdinfo.FdTypes_SIGNALFD:
		return fileName{FileSignalFD, "anon_inode:[signalfd]"}
	case fdinfo.FdTypes_TIMERFD:
		return fileName{FileTimerFD, "anon_inode:[timerfd]"}
	case fdinfo.FdTypes_PIDFD:
		return fileName{FilePidFD, fmt.Sprintf("pidfd:[%d]", f.GetPidfd().GetNspid())}
	case fdinfo.FdTypes_TTY:
		return fileName{FileTTY, fmt.Sprintf("tty:[%#x]", f.GetTty().GetTtyInfoId())}
	case fdinfo.FdTypes_NS:
		return fileName{FileNamespace, fmt.Sprintf("namespace:[%d]", f.GetNsf().GetNsId())}
	case fdinfo.FdTypes_TUNF:
		return fileName{FileTun, "tun:" + f.GetTunf().GetNetdev()}
	case fdinfo.FdTypes_EXT:
		return fileName{FileExternal, fmt.Sprintf("external:[%d]", id)}
	case fdinfo.FdTypes_MEMFD:
		return fileName{FileMemfd, fmt.Sprintf("memfd:[%d]", f.GetMemfd().GetInodeId())}
	case fdinfo.FdTypes_BPFMAP:
		return fileName{FileBPFMap, fmt.Sprintf("bpf-map:[%d]", f.GetBpf().GetMapId())}
	case fdinfo.FdTypes_UND, fdinfo.FdTypes_CTL_TTY, fdinfo.FdTypes_AUTOFS_PIPE:
	}
	return fileName{FileOther, fmt.Sprintf("file:[%d]", id)}
}

// openFiles describes the files and sockets.
func (in *inspection) openFiles(context.Context) error {
	in.info.Files = make([]File, 0, len(in.dump.Files))
	in.info.Sockets = make([]Socket, 0)
	queues, err := in.queues()
	if err != nil {
		return err
	}
	for _, f := range in.dump.Files {
		id := f.GetId()
		name := in.names[id]
		_, removed := in.removed[id]
		openAt := append([]image.DescriptorRef{}, in.openAt[id]...)
		file := File{ID: id, Kind: name.kind, Name: name.name, Removed: removed, OpenAt: openAt}
		if reg := f.GetReg(); reg != nil {
			file.Flags = fmt.Sprintf("%#o", reg.GetFlags())
			file.PositionBytes = reg.GetPos()
			file.SizeBytes = reg.Size
			file.External = reg.GetExt()
		}
		in.info.Files = append(in.info.Files, file)
		var sk Socket
		switch {
		case f.GetIsk() != nil:
			sk = inetSocket(f.GetIsk())
			if sk.Queue, err = in.stream(f.GetIsk()); err != nil {
				return err
			}
		case f.GetUsk() != nil:
			sk = unixSocket(f.GetUsk())
			sk.Queue = queues[id]
		default:
			continue
		}
		sk.File, sk.OpenAt = id, openAt
		in.info.Sockets = append(in.info.Sockets, sk)
	}
	return nil
}

// queues reads what waits for unix sockets, by file id.
func (in *inspection) queues() (map[uint32]*SocketQueue, error) {
	if !in.dump.Has("sk-queues.img") {
		return nil, nil
	}
	packets, err := image.ReadAll[sk_packet.SkPacketEntry](in.dump, "sk-queues.img", image.TypeSkQueues)
	if err != nil {
		return nil, err
	}
	queues := make(map[uint32]*SocketQueue)
	for _, p := range packets {
		q := queues[p.GetIdFor()]
		if q == nil {
			q = &SocketQueue{}
			queues[p.GetIdFor()] = q
		}
		q.Packets++
		q.ReceivedBytes += uint64(p.GetLength())
		for _, scm := range p.GetScm() {
			q.FilesPassed += len(scm.GetRights())
		}
	}
	return queues, nil
}

// stream reads the queues of a TCP connection, if CRIU saved any.
func (in *inspection) stream(isk *sk_inet.InetSkEntry) (*SocketQueue, error) {
	name := fmt.Sprintf("tcp-stream-%x.img", isk.GetIno())
	if !in.dump.Has(name) {
		return nil, nil
	}
	s, err := image.ReadOne[tcp_stream.TcpStreamEntry](in.dump, name, image.TypeTCPStream)
	if err != nil {
		return nil, err
	}
	return &SocketQueue{
		ReceivedBytes: uint64(s.GetInqLen()),
		UnackedBytes:  uint64(s.GetOutqLen()),
		UnsentBytes:   uint64(s.GetUnsqLen()),
	}, nil
}

func inetSocket(isk *sk_inet.InetSkEntry) Socket {
	sk := Socket{
		Inode:    uint64(isk.GetIno()),
		NetNS:    isk.GetNsId(),
		Family:   familyName(isk.GetFamily()),
		Protocol: protocolName(isk.GetProto()),
		State:    StateName(isk.GetState()),
		Local:    addrPort(isk.GetSrcAddr(), isk.GetSrcPort()),
		Options:  socketOptions(isk.GetOpts(), isk.GetFlags(), isk.GetShutdown()),
	}
	if remote := addrPort(isk.GetDstAddr(), isk.GetDstPort()); remote.Port() != 0 {
		sk.Remote = remote
	}
	if isk.GetState() == stateListen {
		sk.Options.Backlog = isk.GetBacklog()
	}
	sk.Options.NoDelay = isk.GetTcpOpts().GetNodelay()
	sk.Options.IPv6Only = isk.GetV6Only()
	return sk
}

func unixSocket(usk *sk_unix.UnixSkEntry) Socket {
	sk := Socket{
		Inode:     uint64(usk.GetIno()),
		NetNS:     usk.GetNsId(),
		Family:    "unix",
		Protocol:  typeName(usk.GetType()),
		State:     StateName(usk.GetState()),
		Path:      unixPath(usk.GetName()),
		PeerInode: uint64(usk.GetPeer()),
		External:  usk.GetUflags()&image.UnixExternal != 0,
		Options:   socketOptions(usk.GetOpts(), usk.GetFlags(), usk.GetShutdown()),
	}
	if usk.GetState() == stateListen {
		sk.Options.Backlog = usk.GetBacklog()
	}
	return sk
}

func socketOptions(o *sk_opts.SkOptsEntry, flags uint32, shutdown sk_opts.SkShutdown) SocketOptions {
	return SocketOptions{
		SendBuffer:    o.GetSoSndbuf(),
		ReceiveBuffer: o.GetSoRcvbuf(),
		Shutdown:      [...]string{"", "read", "write", "both"}[shutdown&3],
		Nonblock:      flags&unix.O_NONBLOCK != 0,
		ReuseAddr:     o.GetReuseaddr(),
		ReusePort:     o.GetSoReuseport(),
		KeepAlive:     o.GetSoKeepalive(),
		BoundDevice:   o.GetSoBoundDev(),
	}
}

// addrPort decodes an address: CRIU stores the words as they are in memory,
// in network order (dump_one_inet_fd in criu/sk-inet.c), and little-endian
// machines are all it is used on here.
func addrPort(words []uint32, port uint32) netip.AddrPort {
	var b []byte
	for _, w := range words {
		b = binary.LittleEndian.AppendUint32(b, w)
	}
	addr, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr, uint16(port))
}

// unixPath shows the name of a unix socket. An abstract one begins with a NUL.
func unixPath(name []byte) string {
	if len(name) > 0 && name[0] == 0 {
		return "@" + string(name[1:])
	}
	return strings.TrimRight(string(name), "\x00")
}

func familyName(family uint32) string {
	switch family {
	case unix.AF_INET:
		return "inet"
	case unix.AF_INET6:
		return "inet6"
	}
	return fmt.Sprintf("family-%d", family)
}

func protocolName(proto uint32) string {
	switch proto {
	case unix.IPPROTO_TCP:
		return "tcp"
	case unix.IPPROTO_UDP:
		return "udp"
	case unix.IPPROTO_UDPLITE:
		return "udplite"
	case unix.IPPROTO_ICMP:
		return "icmp"
	case unix.IPPROTO_ICMPV6:
		return "icmpv6"
	case unix.IPPROTO_RAW:
		return "raw"
	}
	return fmt.Sprintf("protocol-%d", proto)
}

func typeName(t uint32) string {
	switch t {
	case unix.SOCK_STREAM:
		return "stream"
	case unix.SOCK_DGRAM:
		return "dgram"
	case unix.SOCK_SEQPACKET:
		return "seqpacket"
	}
	return fmt.Sprintf("type-%d", t)
}

// stateListen is TCP_LISTEN of the kernel, in use for unix sockets too.
const stateListen = 10

// StateName names the kernel's TCP states (include/net/tcp_states.h).
func StateName(state uint32) string {
	names := [...]string{
		1: "ESTABLISHED", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2",
		6: "TIME_WAIT", 7: "CLOSE", 8: "CLOSE_WAIT", 9: "LAST_ACK", stateListen: "LISTEN",
		11: "CLOSING", 12: "NEW_SYN_RECV",
	}
	if state == 0 || state >= uint32(len(names)) {
		return fmt.Sprintf("STATE_%d", state)
	}
	return names[state]
}
