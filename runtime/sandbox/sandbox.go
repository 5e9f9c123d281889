package sandbox

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/cgroup"
	"github.com/snapctl/snapctl/vem/netns"
)

// DefaultStateDir is where a daemon keeps its state unless it is told otherwise.
const DefaultStateDir = "/var/lib/snapctl"

// CgroupName names the cgroup below which a daemon with this state directory
// puts its apps, so that several daemons on one kernel stay apart.
func CgroupName(stateDir string) string {
	if stateDir == DefaultStateDir {
		return "/snapctl"
	}
	sum := sha256.Sum256([]byte(stateDir))
	return fmt.Sprintf("/snapctl-%x", sum[:4])
}

// Config says where a sandbox is and what runs in it.
type Config struct {
	Name     string
	StateDir string       // the app's own directory below the daemon's state directory
	RunDir   string       // the app's own directory below the daemon's run directory
	Hide     []HiddenDir  // what the app sees empty, if the host's root is its lower one
	Cgroups  *cgroup.Tree // where the app's cgroup is made
	Spec     *specs.Spec  // process, host name, binds, resources
	Log      *slog.Logger
	// Layers tells the directories between the app's writes and its lower root, the
	// topmost first, whenever the root is mounted: see [Stack]. Nil: there are none.
	Layers func(context.Context) ([]string, error)

	// Rootfs is a directory that is the app's root, whose content others make and keep.
	// File systems mounted below it are no part of the app's view. Empty: the root is
	// stacked, the app's own writes over Spec.Root.Path.
	Rootfs string
	// NetNS is the path of a network namespace that is the app's, which others make,
	// connect and remove. Empty: one is made, with loopback devices alone.
	NetNS string
	// Stdio are the program's standard streams.
	Stdio Stdio
}

// Sandbox is the place of one app. Its methods are not safe for concurrent use:
// the app's operation queue is the lock.
type Sandbox struct {
	Config
	group *cgroup.Group
}

// New describes a sandbox; nothing is made yet.
func New(cfg Config) *Sandbox {
	return &Sandbox{Config: cfg, group: cfg.Cgroups.Group(cfg.Name)}
}

// Cgroup returns the app's cgroup.
func (s *Sandbox) Cgroup() *cgroup.Group { return s.group }

// Views are the mounts by which the app sees its own cgroup.
func (s *Sandbox) Views() []cgroup.View { return s.group.Views() }

// ViewSources has what is mounted at each place at which an app may see a cgroup.
func (s *Sandbox) ViewSources() map[string]string { return s.group.ViewSources() }

// Root is the mounted root directory, as the daemon sees it.
func (s *Sandbox) Root() string { return filepath.Join(s.RunDir, "root") }

// Dev is the mounted /dev of the app, as the daemon sees it.
func (s *Sandbox) Dev() string { return filepath.Join(s.RunDir, "dev") }

// Shm is the app's /dev/shm, as the daemon sees it.
func (s *Sandbox) Shm() string { return filepath.Join(s.Dev(), "shm") }

// Upper holds what the app wrote to its root.
func (s *Sandbox) Upper() string { return filepath.Join(s.StateDir, "storage", "upper") }

// LogFile is the app's standard output and error.
func (s *Sandbox) LogFile() string { return filepath.Join(s.StateDir, "log") }

// NetPath is where the app's network namespace is bound.
func (s *Sandbox) NetPath() string { return cmp.Or(s.NetNS, filepath.Join(s.RunDir, "ns", "net")) }

// Enclose makes the part of what outlives the app's processes that they are born in,
// as far as it is missing: the cgroup, and the network namespace, which it returns and
// the caller closes.
func (s *Sandbox) Enclose(ctx context.Context) (ns *netns.NS, err error) {
	for _, dir := range []string{s.StateDir, s.RunDir, filepath.Join(s.RunDir, "ns")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make sandbox directory: %w", err)
		}
	}
	// Each takes the kernel some 0.6 ms.
	var g errgroup.Group
	g.Go(func() error { return s.group.Create(ctx, s.resources()) })
	g.Go(func() (err error) {
		ns, err = s.network()
		return err
	})
	if err := g.Wait(); err != nil {
		if ns != nil {
			err = errors.Join(err, ns.Close())
		}
		return nil, err
	}
	return ns, nil
}

// Furnish makes the rest of it, as far as it is missing: it mounts the app's root and
// /dev. Enclose has made the directories.
func (s *Sandbox) Furnish(ctx context.Context) error {
	if err := s.mountRoot(ctx); err != nil {
		return err
	}
	return s.mountDev()
}

// Renew makes the app's cgroup anew, once its processes have ended: see
// [cgroup.Group.Create].
func (s *Sandbox) Renew(ctx context.Context) error { return s.group.Create(ctx, s.resources()) }

func (s *Sandbox) resources() *specs.LinuxResources {
	if s.Spec.Linux == nil || s.Spec.Linux.Resources == nil {
		return &specs.LinuxResources{}
	}
	return s.Spec.Linux.Resources
}

// network opens the app's network namespace, or makes and binds a new one, unless it is
// given.
func (s *Sandbox) network() (*netns.NS, error) {
	ns, err := netns.Open(s.NetPath())
	if err == nil || s.NetNS != "" {
		return ns, err
	}
	ns, err = netns.New()
	if err != nil {
		return nil, err
	}
	if err := ns.Bind(s.NetPath()); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// Remove takes away all that Enclose, Furnish and KeepIPC made, but for the state directory,
// and for what was given: root directory and network namespace stay. The app's processes
// must have ended. Missing parts are no error.
func (s *Sandbox) Remove() error {
	errs := []error{
		s.DropIPC(),
		unmount(s.Root()),
		unmount(s.Dev()),
		s.group.Delete(),
	}
	if s.NetNS == "" {
		errs = append(errs, netns.Unbind(s.NetPath()))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove sandbox of %s: %w", s.Name, err)
	}
	if err := os.RemoveAll(s.RunDir); err != nil {
		return fmt.Errorf("remove run directory: %w", err)
	}
	return nil
}

// unmount detaches what is mounted at path; nothing there is no error.
func unmount(path string) error {
	for {
		err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
		switch {
		case err == nil:
			continue // there may be another one below
		case errors.Is(err, unix.EINVAL), errors.Is(err, fs.ErrNotExist):
			return nil
		default:
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
}

// Namespaces are the kinds of namespace that an app has of its own, by their names
// in /proc/PID/ns.
func Namespaces() []string { return []string{"pid", "mnt", "ipc", "uts", "net", "cgroup", "time"} }
