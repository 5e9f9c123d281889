package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/stdio"
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
	streams, err := streamsOf(a, rec.Process.PID)
	if err != nil {
		return nil, nil, err
	}
	list = []snapshot.External{
		{Kind: snapshot.ExternalNet, Key: netKey},
		{Kind: snapshot.ExternalDev, Key: devKey, Path: "/dev"},
	}
	// Not the network namespace: CRIU is started in it, see takeOptions.
	control, err := terminal.External(a.box.Dev())
	if err != nil {
		return nil, nil, err
	}
	dump = []string{"mnt[/dev]:" + devKey, control}
	for _, s := range streams {
		list, dump = append(list, snapshot.StreamOf(s)), append(dump, s.Key)
	}
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

// streamsOf names the standard streams of an app, of which pid is the root process.
func streamsOf(a *App, pid int) ([]stdio.Stream, error) {
	files, err := a.box.OpenStdio()
	if err != nil {
		return nil, err
	}
	defer files.Close() //nolint:errcheck // only looked at
	return stdio.Find(pid, files)
}

// place is where the app's processes are restored to.
func (d *Daemon) place(a *App, rec app.Record, ns *netns.NS) (_ *restore.Place, err error) {
	streams, err := a.box.OpenStdio()
	if err != nil {
		return nil, err
	}
	ipc, err := a.box.KeepsIPC()
	if err != nil {
		return nil, errors.Join(err, streams.Close())
	}
	binds := a.box.ViewSources()
	binds[hold.QueueMount] = a.box.Queues()
	for _, m := range rec.Spec.Mounts {
		binds[m.Destination] = m.Source
	}
	return &restore.Place{
		Root: a.box.Root(), Lower: rec.Spec.Root.Path, Net: ns.File(), IPC: ipc, Dev: a.box.Dev(), Binds: binds, Stdio: streams, Work: a.work(), View: a.work(), PIDs: a.cgroup().PIDs,
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
