package daemon

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/cgroups/v3"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/vem/netns"
)

// Doctor implements the API: what of this host stands in snapctl's way, and
// what to do about it. It changes nothing that lasts.
func (d *Daemon) Doctor(ctx context.Context, _ *api.DoctorRequest) (*api.DoctorResponse, error) {
	resp := &api.DoctorResponse{}
	for _, c := range []struct {
		name  string
		check func(context.Context) finding
	}{
		{"root", checkRoot},
		{"kernel", checkKernel},
		{"criu", d.checkCRIU},
		{"run-tmpfs", d.checkRun},
		{"cgroups", d.checkCgroups},
		{"namespaces", checkNamespaces},
		{"overlay", d.checkOverlay},
		{"loopback", checkLoopback},
		{"open-files", checkOpenFiles},
		{"limits", checkLimits},
		{"nsenter", checkNsenter},
		{"ip-forward", checkForward},
		{"holder", d.checkHolder},
	} {
		f := c.check(ctx)
		resp.Checks = append(resp.Checks, &api.Check{Name: c.name, Status: f.status, Found: f.found, Remedy: f.remedy})
	}
	return resp, nil
}

// finding is the result of one check.
type finding struct{ status, found, remedy string }

func fine(found string) finding { return finding{status: "ok", found: found} }

func warning(found, remedy string) finding { return finding{"warning", found, remedy} }

func failed(found, remedy string) finding { return finding{"failed", found, remedy} }

func checkRoot(context.Context) finding {
	if os.Geteuid() != 0 {
		return failed(fmt.Sprintf("user %d", os.Geteuid()), "run snapctld as root")
	}
	return fine("root")
}

// minKernel is Debian 12's, the oldest that snapctl is tested on. It needs
// cgroup.kill (5.14), pidfd_getfd (5.6) and time namespaces (5.6).
var minKernel = [2]int{6, 1} //nolint:gochecknoglobals // a constant

func checkKernel(context.Context) finding {
	release := kernelRelease()
	var major, minor int
	if _, err := fmt.Sscanf(release, "%d.%d", &major, &minor); err != nil {
		return warning(release, "can't read the version: Linux 6.1 or newer is needed")
	}
	if major < minKernel[0] || major == minKernel[0] && minor < minKernel[1] {
		return failed(release, "use Linux 6.1 or newer: Debian 12 has it")
	}
	return fine(release)
}

func (d *Daemon) checkCRIU(ctx context.Context) finding {
	path, v, err := FindCRIU(ctx, d.criu.Path)
	if err != nil {
		return failed(err.Error(), "run scripts/deps criu, then restart snapctld")
	}
	return fine(path + " " + versionText(v))
}

// checkRun: CRIU keeps its kernel probes in /run/criu.kdat, but only on a
// tmpfs (criu/kerndat.c, kerndat_save_cache).
func (d *Daemon) checkRun(context.Context) finding {
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

func (d *Daemon) checkCgroups(context.Context) finding {
	modes := map[cgroups.CGMode]string{cgroups.Unified: "v2", cgroups.Hybrid: "hybrid", cgroups.Legacy: "v1"}
	probe := d.cgroups.Group("doctor")
	if err := os.Mkdir(probe.Path(), 0o755); err != nil {
		return failed(err.Error(), "make the cgroup v2 hierarchy writable for snapctld")
	}
	defer os.Remove(probe.Path()) //nolint:errcheck // empty: it goes, or the next doctor tells
	for _, file := range []string{"cgroup.freeze", "cgroup.kill"} {
		if _, err := os.Stat(filepath.Join(probe.Path(), file)); err != nil {
			return failed("no "+file, "use Linux 5.14 or newer")
		}
	}
	return fine(modes[cgroups.Mode()] + ", below " + filepath.Dir(probe.Path()))
}

func checkNamespaces(context.Context) finding {
	var missing []string
	for _, kind := range namespaces {
		if _, err := os.Stat("/proc/self/ns/" + kind); err != nil {
			missing = append(missing, kind)
		}
	}
	if len(missing) > 0 {
		return failed("no namespaces of kind "+strings.Join(missing, ", "), "use a kernel that is built with them (CONFIG_NAMESPACES, CONFIG_TIME_NS, CONFIG_NET_NS)")
	}
	ns, err := netns.New()
	if err != nil {
		return failed(err.Error(), "allow making network namespaces: sysctl user.max_net_namespaces=15000")
	}
	if err := ns.Close(); err != nil {
		return failed(err.Error(), "")
	}
	return fine(strings.Join(namespaces, ", "))
}

func (d *Daemon) checkOverlay(context.Context) finding {
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil {
		return failed(err.Error(), "mount /proc")
	}
	if !strings.Contains(string(b), "\toverlay\n") {
		return failed("the kernel has no overlay file system", "modprobe overlay")
	}
	if err := unix.Setxattr(d.opt.StateDir, "trusted.overlay.snapctl", []byte("y"), 0); err != nil {
		return failed(fmt.Sprintf("%s takes no trusted extended attributes: %v", d.opt.StateDir, err), "put the state directory on ext4, xfs or btrfs")
	}
	return fine("upper layers in " + d.opt.StateDir)
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
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // the interface has 64 bits as two of 32
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return failed(err.Error(), "")
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return warning("no CAP_SYS_RESOURCE", limitsRemedy)
	}
	return fine("CAP_SYS_RESOURCE")
}

const limitsRemedy = "only apps of root can be hibernated: start snapctld with CAP_SYS_RESOURCE"

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

func (d *Daemon) checkHolder(ctx context.Context) finding {
	kept, err := d.fds.List(ctx)
	if err != nil {
		return failed(err.Error(), "snapctld goes on trying to start another one, and has the held sockets until it ends: look into holder.log in its run directory")
	}
	n := 0
	for _, k := range kept {
		n += k
	}
	return fine(fmt.Sprintf("process %d, with %d sockets of %d apps", d.fds.PID(), n, len(kept)))
}
