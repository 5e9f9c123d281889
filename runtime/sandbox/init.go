package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/runtime/cgroup"
)

// initConfig is what Start tells Init.
type initConfig struct {
	Spec *specs.Spec
	Root string
	Dev  string
	// Views of the app's cgroup.
	Views []cgroup.View
	Stdin bool // standard input is given
	// FreeTerminal has the process only do what [Sandbox.FreeTerminal] says.
	FreeTerminal bool
}

// Init is the first process of an app before it becomes the program: it runs
// in the new namespaces, mounts, and executes. It does not return unless that
// fails, or it was started by [Sandbox.FreeTerminal]. The caller must be on the main
// thread, locked to it.
func Init() error {
	request, answer := os.NewFile(3, "request"), os.NewFile(4, "answer")
	// Nothing that the daemon inherited from its own parent reaches the program.
	err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // Linux 5.11
	if err == nil {
		err = run(request)
	}
	if err == nil {
		return nil
	}
	_, werr := fmt.Fprint(answer, err)
	return errors.Join(err, werr)
}

func run(request *os.File) error {
	var cfg initConfig
	if err := json.NewDecoder(request).Decode(&cfg); err != nil {
		return fmt.Errorf("read spec: %w", err)
	}
	if cfg.FreeTerminal {
		return freeTerminal()
	}
	// The process is in its cgroup, which so is the root of its namespace,
	// cgroup_namespaces(7); and the spec arrives when the daemon has mounted what
	// the copy of its mount namespace is to have.
	if err := unix.Unshare(unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS); err != nil { //nolint:forbidigo // not a network one
		return fmt.Errorf("make cgroup and mount namespace: %w", err)
	}
	if cfg.Spec.Hostname != "" {
		if err := unix.Sethostname([]byte(cfg.Spec.Hostname)); err != nil {
			return fmt.Errorf("set host name: %w", err)
		}
	}
	if err := mountAll(cfg); err != nil {
		return err
	}
	if err := pivot(cfg.Root); err != nil {
		return err
	}
	if !cfg.Stdin {
		if err := openStdin(); err != nil {
			return err
		}
	}
	// The daemon's own protection from the out-of-memory killer is not the app's.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("0"), 0); err != nil {
		return fmt.Errorf("set out-of-memory score: %w", err)
	}
	return execute(cfg.Spec.Process)
}

// mountAll mounts the app's file systems below its root. Those that CRIU makes
// again are mounted here; /dev and the binds are external mounts to it.
func mountAll(cfg initConfig) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const hardened = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	mounts := []struct {
		target, source, fstype, data string
		flags                        uintptr
	}{
		{"/proc", "proc", "proc", "", hardened},
		{"/sys", "sysfs", "sysfs", "", hardened | unix.MS_RDONLY},
		{"/dev", cfg.Dev, "", "", unix.MS_BIND},
		{"/dev/pts", "devpts", "devpts", "newinstance,ptmxmode=0666,mode=0620,gid=5", unix.MS_NOSUID | unix.MS_NOEXEC},
		{"/dev/mqueue", "mqueue", "mqueue", "", hardened},
	}
	for _, m := range mounts {
		target := filepath.Join(cfg.Root, m.target)
		if err := os.MkdirAll(target, 0o755); err != nil {
			return fmt.Errorf("make mount point: %w", err)
		}
		if err := unix.Mount(m.source, target, m.fstype, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := cgroup.MountViews(cfg.Root, cfg.Views); err != nil {
		return err
	}
	for _, m := range cfg.Spec.Mounts {
		if err := bind(cfg.Root, m); err != nil {
			return err
		}
	}
	return nil
}

// bind mounts a host path into the app. The target is resolved inside the
// root, so that a link in it can't lead outside.
func bind(root string, m specs.Mount) error {
	st, err := os.Stat(m.Source)
	if err != nil {
		return fmt.Errorf("bind %s: %w", m.Source, err)
	}
	target := filepath.Join(root, m.Destination)
	if err := makeMountPoint(target, st.IsDir()); err != nil {
		return fmt.Errorf("bind %s: %w", m.Source, err)
	}
	fd, err := unix.Openat2(unix.AT_FDCWD, target, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_SYMLINKS})
	if err != nil {
		return fmt.Errorf("bind %s to %s (a path without links inside the app): %w", m.Source, m.Destination, err)
	}
	defer unix.Close(fd) //nolint:errcheck // only read from
	at := fmt.Sprintf("/proc/self/fd/%d", fd)
	if err := unix.Mount(m.Source, at, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s: %w", m.Source, err)
	}
	for _, o := range m.Options {
		if o == "ro" {
			// The new mount hides the directory behind fd: name it again.
			attr := &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
			if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, attr); err != nil {
				return fmt.Errorf("make %s read-only: %w", m.Destination, err)
			}
		}
	}
	return nil
}

func makeMountPoint(target string, dir bool) error {
	if _, err := os.Lstat(target); err == nil {
		return nil
	}
	if dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// pivot makes root the root directory and drops everything else, pivot_root(2).
func pivot(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter root: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("drop host root: %w", err)
	}
	return unix.Chdir("/")
}

// openStdin replaces standard input by the app's own /dev/null.
func openStdin() error {
	fd, err := unix.Open("/dev/null", unix.O_RDONLY, 0)
	if err != nil {
		return fmt.Errorf("open /dev/null: %w", err)
	}
	if err := unix.Dup3(fd, 0, 0); err != nil {
		return fmt.Errorf("set standard input: %w", err)
	}
	return unix.Close(fd)
}

// execute becomes the program.
func execute(p *specs.Process) error {
	if err := os.MkdirAll(p.Cwd, 0o755); err != nil {
		return fmt.Errorf("make working directory: %w", err)
	}
	path, err := lookPath(p.Args[0], p.Cwd, p.Env)
	if err != nil {
		return err
	}
	if err := setUser(p.User); err != nil {
		return err
	}
	if err := unix.Chdir(p.Cwd); err != nil {
		return fmt.Errorf("enter working directory %s: %w", p.Cwd, err)
	}
	if err := unix.Exec(path, p.Args, p.Env); err != nil {
		return fmt.Errorf("execute %s: %w", path, err)
	}
	return nil
}

// setUser changes the ids of this thread alone, which is the one that executes.
func setUser(u specs.User) error {
	if u.UID == 0 && u.GID == 0 && len(u.AdditionalGids) == 0 {
		return nil
	}
	gids := make([]int, len(u.AdditionalGids))
	for i, g := range u.AdditionalGids {
		gids[i] = int(g)
	}
	if err := unix.Setgroups(gids); err != nil {
		return fmt.Errorf("set groups: %w", err)
	}
	if err := unix.Setresgid(int(u.GID), int(u.GID), int(u.GID)); err != nil {
		return fmt.Errorf("set group %d: %w", u.GID, err)
	}
	if err := unix.Setresuid(int(u.UID), int(u.UID), int(u.UID)); err != nil {
		return fmt.Errorf("set user %d: %w", u.UID, err)
	}
	return nil
}

// lookPath finds the program in the app's own PATH, inside its root.
func lookPath(file, cwd string, env []string) (string, error) {
	if strings.Contains(file, "/") {
		if filepath.IsAbs(file) {
			return file, nil
		}
		return filepath.Join(cwd, file), nil
	}
	search := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	for _, e := range env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			search = v
		}
	}
	for _, dir := range filepath.SplitList(search) {
		path := filepath.Join(dir, file)
		st, err := os.Stat(path)
		if err == nil && !st.IsDir() && st.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("find program %q in the app's PATH %s: %w", file, search, exec.ErrNotFound)
}
