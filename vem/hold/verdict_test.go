package hold

import (
	"testing"

	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
)

func TestDecide(t *testing.T) {
	socket := func(family, kind, proto int) Facts {
		return Facts{Mode: unix.S_IFSOCK | 0o777, Link: "socket:[1]", Family: family, Type: kind, Proto: proto}
	}
	with := func(f Facts, change func(*Facts)) Facts {
		change(&f)
		return f
	}
	device := func(link string, major, minor uint32) Facts {
		return Facts{Mode: unix.S_IFCHR | 0o666, Link: link, Rdev: unix.Mkdev(major, minor)}
	}
	anon := func(name string) Facts { return Facts{Link: "anon_inode:" + name} }
	file := func(link string) Facts { return Facts{Mode: unix.S_IFREG, Link: link} }

	tests := map[string]struct {
		facts Facts
		fate  Fate
		kind  Kind
		what  string
	}{
		"TCP":             {socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP), Held, TCP, ""},
		"TCP over IPv6":   {socket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_TCP), Held, TCP, ""},
		"TCP listener":    {with(socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP), func(f *Facts) { f.Listening = true }), Held, TCPListen, ""},
		"UDP":             {socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP), Held, UDP, ""},
		"UDP-Lite":        {socket(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_UDPLITE), Held, UDP, ""},
		"corked UDP":      {with(socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_UDP), func(f *Facts) { f.Corked = true }), Refused, UDP, "corked UDP socket"},
		"ping":            {socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP), Held, Ping, ""},
		"ping over IPv6":  {socket(unix.AF_INET6, unix.SOCK_DGRAM, unix.IPPROTO_ICMPV6), Held, Ping, ""},
		"raw":             {socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP), Held, Raw, ""},
		"raw, odd number": {socket(unix.AF_INET, unix.SOCK_RAW, 255), Held, Raw, ""},
		"MPTCP":           {socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP), Refused, Other, "MPTCP socket"},
		"SCTP":            {socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP), Refused, Other, "socket of IP protocol 132"},

		"unix within":            {socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), Saved, Unix, ""},
		"unix out":               {with(socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), func(f *Facts) { f.Outside = true }), Held, Unix, ""},
		"unix listener":          {with(socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), func(f *Facts) { f.Outside, f.Listening = true, true }), Held, UnixListen, ""},
		"unix, other netns":      {with(socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), func(f *Facts) { f.Outside, f.Foreign = true, true }), Refused, Unix, "unix connection to another network namespace"},
		"unix, dead client":      {with(socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), func(f *Facts) { f.Listening, f.Abandoned = true, true }), Refused, UnixListen, "unix listener with a waiting connection whose client is gone"},
		"unix, client with data": {with(socket(unix.AF_UNIX, unix.SOCK_STREAM, 0), func(f *Facts) { f.Listening, f.Unaccepted = true, true }), Refused, UnixListen, "unix listener with a waiting connection of the app itself that has data"},

		"netlink":        {socket(unix.AF_NETLINK, unix.SOCK_RAW, 0), Saved, Netlink, ""},
		"netlink queued": {with(socket(unix.AF_NETLINK, unix.SOCK_RAW, 0), func(f *Facts) { f.Queued = true }), Refused, Netlink, "netlink socket with messages that wait to be read"},
		"packet":         {socket(unix.AF_PACKET, unix.SOCK_RAW, 0), Saved, Packet, "packet socket"},
		"vsock":          {socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0), Refused, Other, "vsock socket"},
		"crypto":         {socket(unix.AF_ALG, unix.SOCK_SEQPACKET, 0), Refused, Other, "AF_ALG (kernel crypto) socket"},
		"unknown family": {socket(77, unix.SOCK_STREAM, 0), Refused, Other, "address family 77 socket"},
		"O_PATH socket":  {with(socket(0, 0, 0), func(f *Facts) { f.NotOpen = true }), Refused, Other, "O_PATH descriptor of a unix socket file"},

		"null":         {device("/dev/null", 1, 3), Saved, Other, ""},
		"zero":         {device("/dev/zero", 1, 5), Saved, Other, ""},
		"full":         {device("/dev/full", 1, 7), Saved, Other, ""},
		"random":       {device("/dev/random", 1, 8), Saved, Other, ""},
		"urandom":      {device("/dev/urandom", 1, 9), Saved, Other, ""},
		"kmsg":         {device("/dev/kmsg", 1, 11), Saved, Other, ""},
		"mem":          {device("/dev/mem", 1, 1), Refused, Other, "device /dev/mem (1:1)"},
		"tty":          {device("/dev/tty", 5, 0), Saved, Other, ""},
		"console":      {device("/dev/console", 5, 1), Saved, Other, ""},
		"ptmx":         {device("/dev/ptmx", 5, 2), Saved, Other, ""},
		"pts":          {device("/dev/pts/0", 136, 0), Saved, Other, ""},
		"pts 300":      {device("/dev/pts/300", 137, 44), Saved, Other, ""},
		"virtual tty":  {device("/dev/tty1", 4, 1), Saved, Other, ""},
		"serial":       {device("/dev/ttyS0", 4, 64), Refused, Other, "device /dev/ttyS0 (4:64)"},
		"tun":          {device("/dev/net/tun", 10, 200), Refused, Other, "TUN/TAP device /dev/net/tun"},
		"fuse":         {device("/dev/fuse", 10, 229), Refused, Other, "FUSE connection /dev/fuse"},
		"kvm":          {device("/dev/kvm", 10, 232), Refused, Other, "device /dev/kvm (10:232)"},
		"graphics":     {device("/dev/dri/card0", 226, 0), Refused, Other, "device /dev/dri/card0 (226:0)"},
		"not looked":   {device("", 226, 0), Refused, Other, "device 226:0 (226:0)"},
		"block device": {Facts{Mode: unix.S_IFBLK, Link: "/dev/vda"}, Refused, Other, "block device /dev/vda"},

		"eventfd":     {anon("[eventfd]"), Saved, Other, ""},
		"epoll":       {anon("[eventpoll]"), Saved, Other, ""},
		"timerfd":     {anon("[timerfd]"), Saved, Other, ""},
		"signalfd":    {anon("[signalfd]"), Saved, Other, ""},
		"inotify":     {anon("inotify"), Saved, Other, ""},
		"fanotify":    {anon("[fanotify]"), Saved, Other, ""},
		"old pidfd":   {anon("[pidfd]"), Saved, Other, ""},
		"io_uring":    {anon("[io_uring]"), Refused, Other, "io_uring"},
		"userfaultfd": {anon("[userfaultfd]"), Refused, Other, "userfaultfd"},
		"perf":        {anon("[perf_event]"), Refused, Other, "perf_event"},
		"seccomp":     {anon("seccomp notify"), Refused, Other, "seccomp notify"},
		"BPF map":     {anon("bpf-map"), Refused, Other, "BPF object (bpf-map)"},
		"BPF program": {anon("bpf-prog"), Refused, Other, "BPF object (bpf-prog)"},
		"kvm guest":   {anon("kvm-vm"), Refused, Other, `anonymous file "kvm-vm"`},

		"pidfd":         {file("pidfd:[7]"), Saved, Other, ""},
		"pidfd outside": {Facts{Mode: unix.S_IFREG, Link: "pidfd:[7]", Outside: true}, Refused, Other, "pidfd of a process outside of the app"},
		"file":          {file("/etc/passwd"), Saved, Other, ""},
		"deleted file":  {file("/tmp/x (deleted)"), Saved, Other, ""},
		"unlooked file": {file(""), Saved, Other, ""},
		"folder":        {Facts{Mode: unix.S_IFDIR, Link: "/"}, Saved, Other, ""},
		"memfd":         {file("/memfd:x (deleted)"), Saved, Other, ""},
		"memfd_secret":  {file("/secretmem (deleted)"), Refused, Other, "memfd_secret"},
		"DMA buffer":    {file("/dmabuf:"), Refused, Other, "DMA buffer"},
		"pipe":          {Facts{Mode: unix.S_IFIFO, Link: "pipe:[5]"}, Saved, Other, ""},
		"FIFO":          {Facts{Mode: unix.S_IFIFO, Link: "/tmp/fifo"}, Saved, Other, ""},
		"namespace":     {file("net:[4026531840]"), Saved, Other, ""},
		"odd file":      {file("guestmem:[1]"), Refused, Other, `file "guestmem:[1]"`},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			v := Decide(test.facts)
			qt.Assert(t, qt.Equals(v.Fate, test.fate))
			qt.Assert(t, qt.Equals(v.Kind, test.kind))
			qt.Assert(t, qt.Equals(v.What, test.what))
			qt.Assert(t, qt.Equals(v.Remedy != "", test.what != ""))
		})
	}
}
