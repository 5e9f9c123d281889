// Package host makes scratch hosts: each is a machine's worth of namespaces in
// which a daemon can run as if the machine were its own, and of which nothing
// is left when it is closed.
//
//	network namespace   lo is up; no other device, no route out, until [Host.Link]
//	mount namespace     the machine's file systems, but a tmpfs on /run; private
//	cgroup namespace    the machine's hierarchies, each rooted in the host's own cgroup
//	uts namespace       the host's name
//	directory           [Host.Dir], the same path inside and outside, on a real disk
//
// What runs inside lives in the host's cgroups whatever namespaces it moves to,
// which is how Close finds all of it. A keeper process keeps the namespaces, so
// the daemon can be killed and started again in the same host. The keeper ends
// the host if the process that made it dies; the next host made anywhere on
// the machine sweeps away what is left then.
//
// Tests use [New]; programs that are no tests use [Open] and [Host.Close].
// Needs root, Linux 5.4 (pidfd).
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/testenv/internal/cgroup"
	"github.com/snapctl/snapctl/testenv/internal/process"
	"github.com/snapctl/snapctl/testenv/internal/scratch"
	"github.com/snapctl/snapctl/vem/netns"
)

// RunDir is the daemon's run directory as seen inside; see [Host.Outside].
const RunDir = "/run/snapctl"

// SocketPath is the daemon's socket as seen inside; see [Host.Socket].
const SocketPath = RunDir + "/snapctl.sock"

// closeTime bounds what [New] gives the removal of a host.
const closeTime = 60 * time.Second

// Config describes a scratch host. The zero value will do.
type Config struct {
	Name string   // host name; "host" if empty
	CRIU string   // the daemon's CRIU; testenv.CRIUPath() if empty
	Args []string // of every daemon, besides Daemon.Args
}

// Host is a scratch host. Its methods are safe for concurrent use.
type Host struct {
	name   string
	criu   string
	args   []string
	place  *scratch.Place
	tree   *cgroup.Tree
	ns     *netns.NS
	mnt    *os.File // the mount namespace; open, for its inode not to be used again
	mntIno uint64
	keeper *exec.Cmd
	alive  io.Closer // the keeper ends the host when this closes

	mu     sync.Mutex
	daemon *daemon
	links  int
	closed bool
}

// New makes a scratch host for a test, which skips or fails without root, and
// closes it after the test. If the test failed the daemon's log is shown.
func New(t testenv.TB, cfg Config) *Host {
	t.Helper()
	testenv.Need(t, testenv.Root)
	h, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatalf("open scratch host: %v", err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the daemon on %s:\n%s", h.name, h.DaemonLog())
		}
		// The test's context has ended when clean-up runs.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), closeTime)
		defer cancel()
		if err := h.Close(ctx); err != nil {
			t.Errorf("close scratch host: %v", err)
		}
	})
	return h
}

// Open makes a scratch host. The caller closes it. Stale hosts of processes
// that died are removed on the way.
func Open(ctx context.Context, cfg Config) (_ *Host, err error) {
	err = scratch.Sweep(ctx, testenv.BaseDir())
	if err != nil {
		return nil, err
	}
	h := &Host{name: cfg.Name, criu: cfg.CRIU, args: cfg.Args}
	if h.name == "" {
		h.name = "host"
	}
	if h.criu == "" {
		h.criu = testenv.CRIUPath()
	}
	h.place, err = scratch.Make(testenv.BaseDir())
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			again, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
			defer cancel()
			err = errors.Join(err, h.Close(again))
		}
	}()
	h.tree, err = h.place.Cgroups()
	if err != nil {
		return nil, err
	}
	err = h.tree.Create()
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{"bin", "log"} {
		err = os.Mkdir(h.Path(dir), 0o755)
		if err != nil {
			return nil, fmt.Errorf("make scratch host: %w", err)
		}
	}
	err = h.startKeeper(ctx)
	if err != nil {
		return nil, err
	}
	pid := h.keeper.Process.Pid
	h.mnt, err = os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return nil, fmt.Errorf("open mount namespace: %w", err)
	}
	var st unix.Stat_t
	if err = unix.Fstat(int(h.mnt.Fd()), &st); err != nil {
		return nil, fmt.Errorf("open mount namespace: %w", err)
	}
	h.mntIno = st.Ino
	h.ns, err = netns.Open(fmt.Sprintf("/proc/%d/ns/net", pid))
	if err != nil {
		return nil, err
	}
	return h, nil
}

// startKeeper returns when the keeper has made the namespaces.
func (h *Host) startKeeper(ctx context.Context) error {
	path, err := testenv.Install(ctx, "hostkeeper", h.Path("bin"))
	if err != nil {
		return err
	}
	log, err := os.OpenFile(h.Path("log", "keeper"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	defer log.Close() //nolint:errcheck // the keeper has its own
	keeper := exec.CommandContext(context.WithoutCancel(ctx), path, "keep", h.Dir(), h.name)
	keeper.Stderr = log
	// Away from the terminal: an interrupt there must leave it alive, to clean up.
	keeper.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	stdin, err := keeper.StdinPipe()
	if err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	stdout, err := keeper.StdoutPipe()
	if err != nil {
		return errors.Join(fmt.Errorf("start keeper: %w", err), stdin.Close())
	}
	if err := keeper.Start(); err != nil {
		return fmt.Errorf("start keeper: %w", err)
	}
	h.keeper, h.alive = keeper, stdin
	if line, err := io.ReadAll(io.LimitReader(stdout, int64(len("ready\n")))); err != nil || string(line) != "ready\n" {
		text, rerr := os.ReadFile(log.Name())
		return errors.Join(fmt.Errorf("start keeper: %s", text), err, rerr)
	}
	return nil
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// Dir is the host's directory, the same inside and outside.
func (h *Host) Dir() string { return h.place.Dir }

// Path names a file below Dir.
func (h *Host) Path(elem ...string) string {
	return filepath.Join(append([]string{h.Dir()}, elem...)...)
}

// StateDir is the daemon's state directory, the same inside and outside.
func (h *Host) StateDir() string { return h.Path("state") }

// Outside translates a path inside the host, such as one below /run, to one
// that the rest of the machine can use while the host is open.
func (h *Host) Outside(path string) string {
	return filepath.Join("/proc", strconv.Itoa(h.KeeperPID()), "root", path)
}

// Socket is the path at which this process finds the daemon's socket.
func (h *Host) Socket() string { return h.Outside(SocketPath) }

// KeeperPID is a process that is in all of the host's namespaces.
func (h *Host) KeeperPID() int { return h.keeper.Process.Pid }

// Net is the host's network namespace, which stays the host's: do not close it.
func (h *Host) Net() *netns.NS { return h.ns }

// Do runs fn in the host's network namespace. What fn opens stays in there; fn
// must not start goroutines that expect to be there.
func (h *Host) Do(fn func() error) error { return h.ns.Do(fn) }

// DialContext connects from inside the host. The address must be numeric: to
// resolve a name would take goroutines that are not in the namespace.
func (h *Host) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	err = h.Do(func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

// Listen listens for connections inside the host, at a numeric address.
func (h *Host) Listen(ctx context.Context, network, address string) (l net.Listener, err error) {
	err = h.Do(func() error {
		var lc net.ListenConfig
		l, err = lc.Listen(ctx, network, address)
		return err
	})
	return l, err
}

// ListenPacket listens for datagrams inside the host, at a numeric address.
func (h *Host) ListenPacket(ctx context.Context, network, address string) (c net.PacketConn, err error) {
	err = h.Do(func() error {
		var lc net.ListenConfig
		c, err = lc.ListenPacket(ctx, network, address)
		return err
	})
	return c, err
}

// Pids lists all processes of the host, the keeper included, and those of its
// apps: whatever is in its cgroups or in its namespaces.
func (h *Host) Pids() ([]int, error) {
	pids, err := h.tree.Procs()
	if err != nil {
		return nil, err
	}
	strays, err := h.strays()
	return append(pids, strays...), err
}

// Cgroups lists the cgroups made inside the host, as paths inside.
func (h *Host) Cgroups() ([]string, error) { return h.tree.Children() }

// Closed tells whether Close was called.
func (h *Host) Closed() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.closed
}

// strays lists processes in the host's namespaces but not in its cgroups. Both
// namespaces are open here, so no other one has their inodes: the kernel gives
// the inode of a namespace that is gone to the next one that is made.
func (h *Host) strays() ([]int, error) {
	if h.ns == nil {
		return nil, nil // not up yet: nothing could enter
	}
	all, err := process.List()
	if err != nil {
		return nil, err
	}
	in, err := h.tree.Procs()
	if err != nil {
		return nil, err
	}
	known := make(map[int]bool, len(in)+1)
	for _, pid := range in {
		known[pid] = true
	}
	// Our own main thread may be one that is in the namespace for Do.
	known[os.Getpid()] = true
	var strays []int
	for _, p := range all {
		if known[p.PID] || p.Zombie() {
			continue
		}
		if process.Namespace(p.PID, "net") == h.ns.Inode() || process.Namespace(p.PID, "mnt") == h.mntIno {
			strays = append(strays, p.PID)
		}
	}
	return strays, nil
}

// Close ends every process of the host by SIGKILL, waits for them, and removes
// its cgroups, namespaces and directory. It may be called again.
func (h *Host) Close(ctx context.Context) error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	d := h.daemon
	h.mu.Unlock()

	var errs []error
	if h.tree != nil {
		errs = append(errs, scratch.Kill(ctx, h.tree, h.strays))
	}
	if d != nil {
		errs = append(errs, d.wait(ctx))
	}
	if h.keeper != nil {
		errs = append(errs, h.alive.Close(), killed(h.keeper.Wait()))
	}
	if h.ns != nil {
		errs = append(errs, h.ns.Close())
	}
	if h.mnt != nil {
		errs = append(errs, h.mnt.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close host %s: %w", h.name, err) // what it holds stays, to be looked at
	}
	return h.place.Remove(ctx)
}

// killed drops the exit status of a process that was killed on purpose.
func killed(err error) error {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signal() == unix.SIGKILL {
			return nil
		}
	}
	return err
}
