package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// How is in which way storage layers come between an app's files and its lower root.
type How int

const (
	// Directly says that each layer is a lower directory of the overlay.
	Directly How = iota
	// ByStubs says that a tree of stubs stands for the layers, and leads to their data
	// through the lower root: an overlay refuses a lower directory inside another one
	// (fs/overlayfs/super.c, ovl_check_layer), as layers inside the lower root are.
	ByStubs
	// Copied says that neither can be: each app has a copy of its own.
	Copied
)

func (h How) String() string {
	switch h {
	case Directly:
		return "directly"
	case ByStubs:
		return "by stubs"
	case Copied:
		return "copied"
	default:
		return fmt.Sprintf("how %d", int(h))
	}
}

// Stacking is how the layers of a directory come above a lower root.
type Stacking struct {
	How How
	// Within is where the directory is in the lower root, to an overlay: by the
	// directories of the file system, whatever is mounted on them.
	Within string
	// Why tells why layers are copied.
	Why error
}

// ErrNested is a storage layer inside an app's lower root, on a kernel where nothing
// can be done about that.
var ErrNested = errors.New("the state directory is inside the app's root directory, and the kernel can't share files from there: put the state directory on a file system of its own")

// Stack tells how layers that are below state can come above a lower root. It is the
// one place that decides this. It needs CAP_SYS_ADMIN, and tries what it tells by
// mounting an overlay for a moment: it is for being asked once.
//
// A view of the host's root that is an overlay itself would not do for a lower
// directory: of a file mapped from an overlay on an overlay the kernel does not tell
// the name that the app knows (/proc/PID/map_files), and CRIU can't save it.
func Stack(lower, state string) (Stacking, error) {
	root, err := locate(lower)
	if err != nil {
		return Stacking{}, err
	}
	dir, err := locate(state)
	if err != nil {
		return Stacking{}, err
	}
	rel, err := filepath.Rel(root.path, dir.path)
	if err != nil {
		return Stacking{}, fmt.Errorf("compare %s and %s: %w", lower, state, err)
	}
	if root.device != dir.device || rel == ".." || strings.HasPrefix(rel, "../") {
		return Stacking{How: Directly}, nil
	}
	s := Stacking{How: ByStubs, Within: filepath.Join("/", rel)}
	err = s.try(lower, state)
	if errors.Is(err, errRefused) {
		return Stacking{How: Copied, Why: fmt.Errorf("%w: %w", ErrNested, err)}, nil
	}
	return s, err
}

// location is a directory of a file system, as that knows it.
type location struct{ device, path string }

// locate finds the file system that a directory is on, and where: proc(5),
// /proc/PID/mountinfo. The device is that of the file system, also where st_dev is a
// subvolume's.
func locate(dir string) (location, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return location{}, fmt.Errorf("locate directory: %w", err)
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &st); err != nil {
		return location{}, fmt.Errorf("locate %s: %w", dir, err)
	}
	found, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
		same := uint64(m.ID) == st.Mnt_id //nolint:gosec // an id is positive
		return !same, same
	})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("no mount %d in mountinfo", st.Mnt_id)
	}
	if err != nil {
		return location{}, fmt.Errorf("locate %s: %w", dir, err)
	}
	m := found[0]
	rel, err := filepath.Rel(m.Mountpoint, dir)
	if err != nil {
		return location{}, fmt.Errorf("locate %s: %w", dir, err)
	}
	return location{device: fmt.Sprintf("%d:%d", m.Major, m.Minor), path: filepath.Join(m.Root, rel)}, nil
}

// probePrefix begins the names of the directories in which Stack tries something.
const probePrefix = ".stub-probe-"

// SweepProbes removes what a killed process has left of [Stack] in the state
// directory. Nobody may be trying there.
func SweepProbes(state string) error {
	left, err := filepath.Glob(filepath.Join(state, probePrefix+"*"))
	if err != nil {
		return fmt.Errorf("look for probes: %w", err)
	}
	var errs []error
	for _, dir := range left {
		errs = append(errs, removeProbe(dir))
	}
	return errors.Join(errs...)
}

func removeProbe(dir string) error {
	if err := errors.Join(unmount(filepath.Join(dir, "root")), unmount(filepath.Join(dir, "stubs"))); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove probe: %w", err)
	}
	return nil
}

// try reads a file of the state directory by a stub, and returns why that can't be:
// an error wrapping errRefused if the kernel does not do it.
func (s Stacking) try(lower, state string) (err error) {
	dir, err := os.MkdirTemp(state, probePrefix)
	if err != nil {
		return fmt.Errorf("try to share files: %w", err)
	}
	defer func() { err = errors.Join(err, removeProbe(dir)) }()
	at := func(name string) string { return filepath.Join(dir, name) }
	for _, name := range []string{"root", "stubs", "upper", "work"} {
		if err := os.Mkdir(at(name), 0o700); err != nil {
			return fmt.Errorf("try to share files: %w", err)
		}
	}
	const content = "found"
	if err := os.WriteFile(at("data"), []byte(content), 0o600); err != nil {
		return fmt.Errorf("try to share files: %w", err)
	}
	if err := MountStubs(at("stubs")); err != nil {
		return err
	}
	stub := at("stubs/.snapctl-probe")
	err = errors.Join(
		os.WriteFile(stub, nil, 0o600), os.Truncate(stub, int64(len(content))),
		unix.Setxattr(stub, "trusted.overlay.metacopy", nil, 0),
		unix.Setxattr(stub, "trusted.overlay.redirect", []byte(filepath.Join(s.Within, filepath.Base(dir), "data")), 0),
	)
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	mount := overlay{lowers: []string{at("stubs"), lower}, upper: at("upper"), work: at("work"), metacopy: true}
	if err := mount.at(at("root")); errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.ENOMEM) {
		return err
	} else if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	if b, err := os.ReadFile(at("root/.snapctl-probe")); err != nil || string(b) != content {
		return errors.Join(fmt.Errorf("%w: it found %q", errRefused, b), err)
	}
	return nil
}

// errRefused is a kernel that does not follow stubs.
var errRefused = errors.New("the kernel does not follow stubs")

// MountStubs mounts a tmpfs for trees of stubs, if nothing is mounted there. They
// take no data, but any number of inodes.
func MountStubs(dir string) error {
	mounted, err := isMountPoint(dir)
	if err != nil || mounted {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("mount stubs: %w", err)
	}
	if err := unix.Mount("snapctl", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700,nr_inodes=0"); err != nil {
		return fmt.Errorf("mount stubs: %w", err)
	}
	return private(dir)
}

// UnmountStubs unmounts what MountStubs has mounted. Nothing there is no error.
func UnmountStubs(dir string) error { return unmount(dir) }

// overlay is what an overlay is mounted of.
type overlay struct {
	lowers      []string // the topmost first
	upper, work string
	metacopy    bool
}

// errTooLong is an overlay of too many lower directories.
var errTooLong = errors.New("too many storage layers")

// options are those of mount(2).
func (o overlay) options() (string, error) {
	for _, p := range append([]string{o.upper, o.work}, o.lowers...) {
		if strings.ContainsAny(p, ",:\\") {
			return "", fmt.Errorf("path %q: an overlay can't take ',', ':' or '\\' in a path", p)
		}
	}
	data := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", strings.Join(o.lowers, ":"), o.upper, o.work)
	if o.metacopy {
		// Stubs get other inodes when they are made anew, after a reboot: an index
		// of the old ones would be refused (fs/overlayfs/super.c,
		// ovl_get_indexdir). metacopy=on implies redirect_dir=on.
		//
		// Layers are on several file systems. xino=on gives their files inode numbers
		// of one range, and stat(2) tells the same as inotify does of them, by which
		// CRIU finds what is watched (Documentation/filesystems/overlayfs.rst, "Inode
		// properties").
		data += ",metacopy=on,index=off,xino=on"
	}
	// mount(2) takes a page of options, with its terminating zero.
	if len(data) >= os.Getpagesize() {
		return "", fmt.Errorf("%w: %d: snapshots of clones of snapshots of clones; run the program anew", errTooLong, len(o.lowers)-1)
	}
	return data, nil
}

// at mounts it.
func (o overlay) at(dir string) error {
	data, err := o.options()
	if err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	if err := unix.Mount("snapctl", dir, "overlay", 0, data); err != nil {
		return fmt.Errorf("mount overlay (%s): %w", data, err)
	}
	return private(dir)
}
