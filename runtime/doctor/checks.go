package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/runtime/sandbox"
	"github.com/snapctl/snapctl/snapshot/ahead"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/vem/netns"
)

func checkRoot(context.Context) finding {
	if !isRoot() {
		return warning(fmt.Sprintf("user %d", os.Geteuid()), "snapctld and snapctl need root: sudo snapctl doctor sees more")
	}
	return fine("root")
}

// minKernel is Debian 12's, the oldest that snapctl is tested on. It needs
// cgroup.kill (5.14), pidfd_getfd (5.6) and time namespaces (5.6).
var minKernel = [2]int{6, 1} //nolint:gochecknoglobals // a constant

// Kernel is the release of the running kernel, "" if that is unknown.
func Kernel() string {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return ""
	}
	return unix.ByteSliceToString(u.Release[:])
}

func checkKernel(context.Context) finding { return judgeKernel(Kernel()) }

func judgeKernel(release string) finding {
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return warning(release, "can't read the version: Linux 6.1 or newer is needed")
	}
	if major < minKernel[0] || major == minKernel[0] && minor < minKernel[1] {
		return failed(release, "use Linux 6.1 or newer: Debian 12 has it")
	}
	return fine(release)
}

func (o Options) checkCRIU(ctx context.Context) finding {
	path, v, err := criu.Find(ctx, o.CRIU...)
	if err != nil && !isRoot() { // it can't be asked for its version, and may be on root's PATH alone
		return unseen("which CRIU root has: " + err.Error())
	}
	if err != nil {
		return failed(err.Error(), "run scripts/deps criu, then restart snapctld")
	}
	return fine(path + " " + criu.VersionText(v))
}

// checkRun: CRIU keeps its kernel probes in /run/criu.kdat, but only on a
// tmpfs (criu/kerndat.c, kerndat_save_cache).
func checkRun(context.Context) finding {
	var st unix.Statfs_t
	if err := unix.Statfs("/run", &st); err != nil {
		return failed(err.Error(), "mount a tmpfs on /run: mount -t tmpfs tmpfs /run")
	}
	if st.Type != unix.TMPFS_MAGIC {
		return warning("/run is no tmpfs", "each start of CRIU costs 30 to 90 ms more than it must: mount -t tmpfs tmpfs /run")
	}
	if _, err := os.Stat("/run/criu.kdat.tmp"); err == nil {
		return warning("/run/criu.kdat.tmp is left over from a crash", "CRIU can't cache its kernel probes: rm /run/criu.kdat.tmp")
	}
	return fine("tmpfs")
}

func (o Options) checkCgroups(context.Context) finding {
	dir := o.Cgroup
	if dir == "" {
		mount, err := cgroup.Find()
		if err != nil {
			return failed(err.Error(), "mount /proc")
		}
		if mount == "" {
			return warning("no cgroup v2 hierarchy can be reached here", "snapctld mounts one for itself")
		}
		dir = mount
	}
	probe := filepath.Join(dir, "snapctl-doctor-"+strconv.Itoa(os.Getpid()))
	if err := os.Mkdir(probe, 0o755); err != nil {
		if !isRoot() {
			return unseen("whether cgroups can be made below " + dir)
		}
		return failed(err.Error(), "make the cgroup v2 hierarchy writable for snapctld")
	}
	defer os.Remove(probe) //nolint:errcheck // empty: it goes, or the next doctor tells
	for _, file := range []string{"cgroup.freeze", "cgroup.kill"} {
		if _, err := os.Stat(filepath.Join(probe, file)); err != nil {
			return failed("no "+file, "use Linux 5.14 or newer")
		}
	}
	layout, err := cgroup.Layout()
	if err != nil {
		return failed(err.Error(), "mount /proc")
	}
	return fine(layout + ", below " + dir)
}

func checkNamespaces(context.Context) finding {
	var missing []string
	for _, kind := range sandbox.Namespaces() {
		if _, err := os.Stat("/proc/self/ns/" + kind); err != nil {
			missing = append(missing, kind)
		}
	}
	if len(missing) > 0 {
		return failed("no namespaces of kind "+strings.Join(missing, ", "), "use a kernel that is built with them (CONFIG_NAMESPACES, CONFIG_TIME_NS, CONFIG_NET_NS)")
	}
	ns, err := netns.New()
	if err != nil && !isRoot() {
		return unseen("whether namespaces can be made; the kernel has " + strings.Join(sandbox.Namespaces(), ", "))
	}
	if err != nil {
		return failed(err.Error(), "allow making network namespaces: sysctl user.max_net_namespaces=15000")
	}
	if err := ns.Close(); err != nil {
		return failed(err.Error(), "")
	}
	return fine(strings.Join(sandbox.Namespaces(), ", "))
}

func (o Options) checkOverlay(context.Context) finding {
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return failed(err.Error(), "mount /proc")
	}
	if !strings.Contains(string(b), "\toverlay\n") {
		return failed("the kernel has no overlay file system", "modprobe overlay")
	}
	if !isRoot() {
		return unseen("whether " + o.StateDir + " takes trusted extended attributes; the kernel has overlay")
	}
	dir := o.stateDir()
	probe, err := os.MkdirTemp(dir, ".snapctl-doctor-")
	if err != nil {
		return failed(err.Error(), "make room in "+dir+", and make it writable for snapctld")
	}
	defer os.Remove(probe) //nolint:errcheck // empty: it goes, or is in nobody's way
	if err := unix.Setxattr(probe, "trusted.overlay.snapctl", []byte("y"), 0); err != nil {
		return failed(fmt.Sprintf("%s takes no trusted extended attributes: %v", dir, err), "put the state directory on ext4, xfs or btrfs")
	}
	return fine("upper layers in " + o.StateDir)
}

// stateDir is the state directory, or where it would be made: a daemon that was never
// started has none.
func (o Options) stateDir() string {
	dir := o.StateDir
	for {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return dir
		}
		dir = filepath.Dir(dir)
	}
}

// checkSharedFiles looks how clones that have the host's root share their files.
func (o Options) checkSharedFiles(context.Context) finding {
	if !isRoot() {
		return unseen("whether clones share files in " + o.StateDir)
	}
	s, err := sandbox.Stack("/", o.stateDir())
	if err != nil {
		return failed(err.Error(), "make room in "+o.StateDir+", and mount /proc")
	}
	switch s.How {
	case sandbox.Directly:
		return fine("layers in " + o.StateDir)
	case sandbox.ByStubs:
		return fine("layers in " + o.StateDir + ", by stubs")
	case sandbox.Copied:
	}
	return warning("each clone gets a copy of its files: "+s.Why.Error(), "put the state directory on a file system of its own, or use a kernel whose overlay has metacopy")
}

// checkLoopback: CRIU probes the kernel's TCP repair over the loopback device
// (criu/kerndat.c, kerndat_tcp_repair).
func checkLoopback(context.Context) finding {
	lo, err := net.InterfaceByName("lo")
	if err != nil || lo.Flags&net.FlagUp == 0 {
		return failed("lo is down", "CRIU can't probe the kernel: ip link set lo up")
	}
	return fine("up")
}

// checkCopyAhead: without it apps stand still while all of their memory is saved.
func checkCopyAhead(context.Context) finding {
	if !isRoot() {
		return unseen("whether memory can be copied while apps run")
	}
	if err := ahead.Supported(); err != nil {
		return warning("apps stand still while all of their memory is saved: "+err.Error(), "use Linux 6.9 or newer, with userfaultfd and FUSE; nothing else is different")
	}
	return fine("memory is copied while apps run")
}

func checkOpenFiles(context.Context) finding {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return failed(err.Error(), "")
	}
	if l.Max < 65536 {
		return warning(strconv.FormatUint(l.Max, 10), "the sockets of all held apps count against it: start snapctld with LimitNOFILE=1048576, or ulimit -Hn 1048576")
	}
	return fine(strconv.FormatUint(l.Max, 10))
}

// checkLimits looks for CAP_SYS_RESOURCE, without which prlimit(2) tells nothing
// of another user's process, and CRIU saves none (cr-dump.c, dump_task_rlimits).
func checkLimits(context.Context) finding {
	if !isRoot() {
		return unseen("which capabilities root has")
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the interface has 64 bits as two of 32
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return failed(err.Error(), "")
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return warning("no CAP_SYS_RESOURCE", LimitsRemedy)
	}
	return fine("CAP_SYS_RESOURCE")
}

// LimitsRemedy is what to do about a daemon without CAP_SYS_RESOURCE.
const LimitsRemedy = "only apps of root can be hibernated: start snapctld with CAP_SYS_RESOURCE"

func checkNsenter(context.Context) finding {
	path, err := exec.LookPath("nsenter")
	if err != nil {
		return warning("not found", "snapctl exec needs it: apt-get install util-linux")
	}
	return fine(path)
}

func checkForward(context.Context) finding {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward")
	if err != nil {
		return failed(err.Error(), "mount /proc")
	}
	if strings.TrimSpace(string(b)) != "1" {
		return warning("net.ipv4.ip_forward is 0", "apps don't reach the outside until it is 1; snapctld sets it with the first network")
	}
	return fine("net.ipv4.ip_forward is 1")
}
