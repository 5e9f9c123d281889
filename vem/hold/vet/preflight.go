package vet

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/hold/collect"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
	"github.com/snapctl/snapctl/vem/hold/proc"
)

// Severity says how bad a [Finding] is.
type Severity int

// The severities.
const (
	Error   Severity = iota // hibernating would fail
	Warning                 // something may be lost
	Listed                  // something comes back otherwise than it was
)

// String gives the severity's name.
func (s Severity) String() string {
	switch s {
	case Error:
		return "error"
	case Warning:
		return "warning"
	case Listed:
		return "listed"
	default:
		return "severity_" + strconv.Itoa(int(s))
	}
}

// Finding is one thing that stands in the way of hibernating an app.
type Finding struct {
	Severity Severity
	// Err is an *[hold.UnsupportedError], or what went wrong while looking.
	Err error
	// Note is what is Listed.
	Note hold.Note
}

// Errors joins the findings that would make hibernating fail; nil if there are
// none.
func Errors(findings []Finding) error {
	var errs []error
	for _, f := range findings {
		if f.Severity == Error {
			errs = append(errs, f.Err)
		}
	}
	return errors.Join(errs...)
}

// Preflight looks at every open file and mapping of the processes, without
// duplicating any, and tells all that [collect.App] or CRIU would refuse, each thing
// once. The app may run on meanwhile; a process that ends is no finding.
//
// [collect.App] looks closer: it alone notices what only getsockopt(2) tells, such as a
// corked UDP socket.
//
// It also makes room for the duplicates in this process's descriptor table: in a
// process with threads each growth waits for an RCU grace period (fs/file.c,
// expand_fdtable), some 10 ms that are better spent before the app is frozen.
//
// Cost: 10 us a descriptor, 1 us a mapping.
func Preflight(ctx context.Context, pids []int) []Finding {
	return (&preflight{pids: pids}).run(ctx)
}

// PreflightCopy does the same for an app that goes on while others are made
// from what CRIU saves; see [collect.ForCopy].
func PreflightCopy(ctx context.Context, pids []int) []Finding {
	return (&preflight{pids: pids, copy: true}).run(ctx)
}

func (p *preflight) run(ctx context.Context) []Finding {
	for _, pid := range p.pids {
		if err := ctx.Err(); err != nil {
			return append(p.findings, Finding{Err: err})
		}
		if err := p.process(pid); err != nil && !errors.Is(err, proc.ErrGone) {
			p.findings = append(p.findings, Finding{Err: err})
		}
	}
	p.terminals.judge(p)
	for _, s := range p.namespaces.Strangers(p.pids) {
		p.add(Error, s.Pid, hold.NoFD, hold.OwnNamespace(s.Kind))
	}
	p.watched.judge(p)
	if p.copy && p.namespaces.Root() != 0 {
		if _, err := collect.FindMoved(ctx, p.pids, p.namespaces.Root()); err != nil {
			p.findings = append(p.findings, Finding{Err: err})
		}
	}
	if err := reserve(p.sockets); err != nil {
		p.findings = append(p.findings, Finding{Err: err})
	}
	return p.findings
}

type preflight struct {
	pids       []int
	copy       bool // nothing is held
	findings   []Finding
	sockets    int // descriptors of sockets seen
	terminals  terminals
	namespaces proc.Namespaces
	devices    proc.Devices
	watched    watched
}

func (p *preflight) process(pid int) error {
	fds, err := proc.Descriptors(pid)
	if err != nil {
		return err
	}
	mounts, err := proc.MountPoints(pid)
	if err != nil {
		return err
	}
	for _, fd := range fds {
		if err := p.descriptor(pid, fd, mounts); err != nil {
			return err
		}
	}
	if err := errors.Join(p.queues(pid), p.state(pid)); err != nil {
		return err
	}
	return p.mappings(pid)
}

func (p *preflight) add(severity Severity, pid, fd int, v hold.Verdict) {
	p.findings = append(p.findings, Finding{Severity: severity, Err: v.Refusal(pid, fd)})
}

func (p *preflight) descriptor(pid, fd int, mounts map[uint64]string) error {
	name := proc.FDPath(pid, fd)
	link, err := os.Readlink(name)
	if errors.Is(err, os.ErrNotExist) {
		return nil // closed meanwhile
	}
	if err != nil {
		return proc.Gone(pid, err)
	}
	facts := hold.Facts{Link: link, Mode: unix.S_IFREG}
	mounted := true
	switch {
	case strings.HasPrefix(link, "socket:"):
		p.sockets++
		facts.Mode = unix.S_IFSOCK
		if err := socketKind(&facts, name); err != nil {
			return nil //nolint:nilerr // closed meanwhile, or a kind without a name: collect.App will tell
		}
	case strings.HasPrefix(link, "/"):
		var st unix.Statx_t
		err := unix.Statx(unix.AT_FDCWD, name, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_MNT_ID, &st)
		if err != nil {
			return nil //nolint:nilerr // closed meanwhile
		}
		facts.Mode, facts.Rdev = uint32(st.Mode), unix.Mkdev(st.Rdev_major, st.Rdev_minor)
		facts.NotOpen = facts.Mode&unix.S_IFMT == unix.S_IFSOCK
		_, found := mounts[st.Mnt_id]
		mounted = found || st.Mask&unix.STATX_MNT_ID == 0 || proc.HasOwnMount(link)
		if facts.Mode&unix.S_IFMT == unix.S_IFCHR && isTerminal(facts.Rdev) {
			p.terminals.see(p, hold.Owner{PID: pid, FD: fd}, facts.Rdev, unix.Mkdev(st.Dev_major, st.Dev_minor), mounted)
			return nil
		}
		switch {
		case !mounted && facts.Mode&unix.S_IFMT == unix.S_IFCHR && !p.visible(st.Mnt_id):
			p.add(Error, pid, fd, hold.Verdict{
				Fate: hold.Refused, What: "device " + strconv.Quote(link) + ", on a mount that no process of the app sees,",
				Remedy: "it was passed from outside, or opened before the process made a mount namespace of its own (unshare): close it, or open it again",
			})
			return nil
		case !mounted && !mqueue.Is(pid, fd):
			p.add(Warning, pid, fd, hold.Verdict{
				What:   "file " + strconv.Quote(link) + " that lies outside of the app's mounts",
				Remedy: "it can only be saved if it is passed to CRIU as an external file",
			})
		}
	case strings.HasPrefix(link, "anon_inode:[pidfd]") || strings.HasPrefix(link, "pidfd:"):
		facts.Outside = p.outsidePidfd(pid, fd)
	}
	if strings.HasPrefix(link, "anon_inode:") {
		facts.Mode = 0
	}
	p.watch(pid, fd, link)
	if v, ok := p.losing(pid, fd, link, mounted); ok {
		p.add(Error, pid, fd, v)
		return nil
	}
	switch v := hold.Decide(facts); {
	case v.Fate == hold.Refused:
		p.add(Error, pid, fd, v)
	case v.What != "":
		p.add(Warning, pid, fd, v)
	}
	return nil
}

// visible tells whether some process of the app sees a mount: CRIU looks for it in the
// mount namespaces of all (mount.c, lookup_mnt_id).
func (p *preflight) visible(mount uint64) bool {
	for _, pid := range p.pids {
		points, err := proc.MountPoints(pid)
		if _, ok := points[mount]; err == nil && ok {
			return true
		}
	}
	return false
}

// socketKind fills in what the socket's protocol name tells, which is readable
// without a duplicate of the descriptor (net/socket.c, sockfs_xattr_get).
func socketKind(f *hold.Facts, name string) error {
	var buf [64]byte
	n, err := unix.Getxattr(name, "system.sockprotoname", buf[:])
	if err != nil {
		return err
	}
	*f = protocolFacts(strings.TrimRight(string(buf[:n]), "\x00"), *f)
	return nil
}

// protocolFacts reads the name of a struct proto. The names are the kernel's own:
// grep -A2 "^struct proto .* = {" in net/.
func protocolFacts(name string, f hold.Facts) hold.Facts {
	f.Type = unix.SOCK_DGRAM
	switch name {
	case "TCP", "TCPv6":
		f.Family, f.Type, f.Proto = unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_TCP
	case "UDP", "UDPv6":
		f.Family, f.Proto = unix.AF_INET, unix.IPPROTO_UDP
	case "UDP-Lite", "UDPLITEv6":
		f.Family, f.Proto = unix.AF_INET, unix.IPPROTO_UDPLITE
	case "PING", "PINGv6":
		f.Family, f.Proto = unix.AF_INET, unix.IPPROTO_ICMP
	case "RAW", "RAWv6":
		f.Family, f.Type = unix.AF_INET, unix.SOCK_RAW
	case "MPTCP", "MPTCPv6":
		f.Family, f.Type, f.Proto = unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_MPTCP
	case "SCTP", "SCTPv6":
		f.Family, f.Type, f.Proto = unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP
	case "UNIX", "UNIX-STREAM":
		f.Family = unix.AF_UNIX
	case "NETLINK":
		f.Family = unix.AF_NETLINK
	case "PACKET":
		f.Family = unix.AF_PACKET
	case "AF_VSOCK":
		f.Family = unix.AF_VSOCK
	case "ALG":
		f.Family = unix.AF_ALG
	case "XDP":
		f.Family = unix.AF_XDP
	case "SMC", "SMC6":
		f.Family = unix.AF_SMC
	case "CAN_RAW", "CAN_BCM", "CAN_ISOTP":
		f.Family = unix.AF_CAN
	case "KEY":
		f.Family = unix.AF_KEY
	default:
		f.Family = unix.AF_UNSPEC
	}
	return f
}

// outsidePidfd tells whether a pidfd's process is not in the app. A child that
// has ended and is not waited for is in no cgroup any more; it counts as inside
// by its pid namespace, like all that CRIU saves.
func (p *preflight) outsidePidfd(pid, fd int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if value, ok := strings.CutPrefix(line, "Pid:"); ok {
			target, err := strconv.Atoi(strings.TrimSpace(value))
			return err == nil && target > 0 && !slices.Contains(p.pids, target) && !samePidNamespace(pid, target)
		}
	}
	return false
}

// samePidNamespace tells whether two processes are in the same namespace, and that
// not the daemon's own.
func samePidNamespace(a, b int) bool {
	own, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return false
	}
	x, errX := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", a))
	y, errY := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", b))
	return errX == nil && errY == nil && x == y && x != own
}

// mappings looks for kernel objects that are mapped though their descriptor may
// be closed (a registered io_uring has none).
func (p *preflight) mappings(pid int) error {
	f, err := os.Open(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return proc.Gone(pid, err)
	}
	defer f.Close() //nolint:errcheck // read only
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	seen := map[string]bool{}
	for lines.Scan() {
		i := strings.Index(lines.Text(), "anon_inode:")
		if i < 0 {
			continue
		}
		link := lines.Text()[i:]
		if seen[link] || p.known(pid, link) {
			continue
		}
		seen[link] = true
		if v := hold.Decide(hold.Facts{Link: link}); v.Fate == hold.Refused {
			p.add(Error, pid, hold.NoFD, v)
		}
	}
	if err := lines.Err(); err != nil {
		return proc.Gone(pid, err)
	}
	return nil
}

// known tells whether the same thing of a process was found as a descriptor.
func (p *preflight) known(pid int, link string) bool {
	what := hold.Decide(hold.Facts{Link: link}).What
	for _, f := range p.findings {
		var u *hold.UnsupportedError
		if errors.As(f.Err, &u) && u.PID == pid && u.What == what {
			return true
		}
	}
	return false
}
