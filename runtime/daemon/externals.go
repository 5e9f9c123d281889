package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/terminal"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/netns"
)

// Names of external resources in the images.
const (
	netKey = "net"
	devKey = "dev"
)

// externals lists what CRIU is not to save: for the manifest, and as CRIU's
// --external values.
func externals(a *App, rec app.Record) (list []snapshot.External, dump []string, err error) {
	logKey, err := logFileKey(a, rec.Process.PID)
	if err != nil {
		return nil, nil, err
	}
	list = []snapshot.External{
		{Kind: snapshot.ExternalNet, Key: netKey},
		{Kind: snapshot.ExternalLog, Key: logKey},
		{Kind: snapshot.ExternalDev, Key: devKey, Path: "/dev"},
	}
	// Not the network namespace: CRIU is started in it, see takeOptions.
	control, err := terminal.External(a.box.Dev())
	if err != nil {
		return nil, nil, err
	}
	dump = []string{logKey, "mnt[/dev]:" + devKey, control}
	for _, v := range a.box.Views() {
		list = append(list, snapshot.External{Kind: snapshot.ExternalMount, Key: v.Key, Path: v.Path})
		dump = append(dump, fmt.Sprintf("mnt[%s]:%s", v.Path, v.Key))
	}
	for i, m := range rec.Spec.Mounts {
		key := "bind" + strconv.Itoa(i)
		list = append(list, snapshot.External{Kind: snapshot.ExternalBind, Key: key, Path: m.Destination})
		dump = append(dump, fmt.Sprintf("mnt[%s]:%s", m.Destination, key))
	}
	return list, dump, nil
}

// logFileKey is CRIU's name for the app's log, a file outside of its mounts:
// file[<mount id>:<inode>], both hexadecimal (files-reg.c, dump_one_reg_file).
// The mount id is the one that the process knows the file by.
func logFileKey(a *App, pid int) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(a.box.LogFile(), &st); err != nil {
		return "", fmt.Errorf("find app log: %w", err)
	}
	f, err := a.box.OpenLog()
	if err != nil {
		return "", err
	}
	defer f.Close() //nolint:errcheck // only read from
	mount, _, err := fdinfo("self", int(f.Fd()))
	if err != nil {
		return "", err
	}
	for _, fd := range []int{1, 2} {
		var open unix.Stat_t
		if unix.Stat(fmt.Sprintf("/proc/%d/fd/%d", pid, fd), &open) != nil || open.Ino != st.Ino || open.Dev != st.Dev {
			continue // the program has closed or replaced it
		}
		// A shell does so for each of its commands, and back.
		if id, inode, err := fdinfo(strconv.Itoa(pid), fd); err == nil && inode == st.Ino {
			mount = id
			break
		}
	}
	return fmt.Sprintf("file[%x:%x]", mount, st.Ino), nil
}

// fdinfo reads the mount and the inode of a process's open file, both at the same time
// (fs/proc/fd.c, seq_show; Linux 5.14).
func fdinfo(pid string, fd int) (mount int, inode uint64, err error) {
	path := fmt.Sprintf("/proc/%s/fdinfo/%d", pid, fd)
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, fmt.Errorf("find mount of app log: %w", err)
	}
	for line := range strings.Lines(string(b)) {
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch name {
		case "mnt_id":
			mount, err = strconv.Atoi(value)
		case "ino":
			inode, err = strconv.ParseUint(value, 10, 64)
		}
		if err != nil {
			return 0, 0, fmt.Errorf("find mount of app log: %s: %w", path, err)
		}
	}
	if mount == 0 || inode == 0 {
		return 0, 0, fmt.Errorf("find mount of app log: no mnt_id or ino in %s", path)
	}
	return mount, inode, nil
}

// place is where the app's processes are restored to.
func (d *Daemon) place(a *App, rec app.Record, ns *netns.NS) (_ *restore.Place, err error) {
	log, err := a.box.OpenLog()
	if err != nil {
		return nil, err
	}
	ipc, err := a.box.KeepsIPC()
	if err != nil {
		return nil, errors.Join(err, log.Close())
	}
	binds := a.box.ViewSources()
	binds[hold.QueueMount] = a.box.Queues()
	for _, m := range rec.Spec.Mounts {
		binds[m.Destination] = m.Source
	}
	return &restore.Place{
		Root: a.box.Root(), Lower: rec.Spec.Root.Path, Net: ns.File(), IPC: ipc, Dev: a.box.Dev(), Binds: binds, Log: log, Work: a.work(), View: a.work(),
	}, nil
}

// guard is a lock that CRIU inherits: as long as it can be taken by nobody
// else, a CRIU process works on the app, even if its daemon has died.
type guard struct{ *os.File }

func openGuard(a *App) (*guard, error) {
	f, err := os.OpenFile(filepath.Join(a.work(), "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock app: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock app %s: a CRIU process still works on it: %w", a.Name(), err), f.Close())
	}
	return &guard{f}, nil
}
