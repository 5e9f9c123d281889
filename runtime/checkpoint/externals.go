package checkpoint

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/stdio"
	"github.com/snapctl/snapctl/snapshot/terminal"
	"github.com/snapctl/snapctl/vem/hold/mqueue"
	"github.com/snapctl/snapctl/vem/netns"
)

// Names of external resources in the images.
const (
	netKey = "net"
	devKey = "dev"
)

// externals lists what CRIU is not to save: for the manifest, and as CRIU's
// --external values.
func externals(s *Subject) (list []snapshot.External, dump []string, err error) {
	streams, err := streamsOf(s)
	if err != nil {
		return nil, nil, err
	}
	list = []snapshot.External{
		{Kind: snapshot.ExternalNet, Key: netKey},
		{Kind: snapshot.ExternalDev, Key: devKey, Path: "/dev"},
	}
	// Not the network namespace: CRIU is started in it, see begin.
	control, err := terminal.External(s.Box.Dev())
	if err != nil {
		return nil, nil, err
	}
	dump = []string{"mnt[/dev]:" + devKey, control}
	for _, one := range streams {
		list, dump = append(list, snapshot.StreamOf(one)), append(dump, one.Key)
	}
	for _, v := range s.Box.Views() {
		list = append(list, snapshot.External{Kind: snapshot.ExternalMount, Key: v.Key, Path: v.Path})
		dump = append(dump, fmt.Sprintf("mnt[%s]:%s", v.Path, v.Key))
	}
	for i, m := range s.Box.Spec.Mounts {
		key := "bind" + strconv.Itoa(i)
		list = append(list, snapshot.External{Kind: snapshot.ExternalBind, Key: key, Path: m.Destination})
		dump = append(dump, fmt.Sprintf("mnt[%s]:%s", m.Destination, key))
	}
	return list, dump, nil
}

// streamsOf names the standard streams of an app, as its root process has them.
func streamsOf(s *Subject) ([]stdio.Stream, error) {
	files, err := s.Box.OpenStdio()
	if err != nil {
		return nil, err
	}
	defer files.Close() //nolint:errcheck // only looked at
	return stdio.Find(s.PID, files)
}

// place is where the app's processes are restored to.
func (s *Subject) place(ns *netns.NS) (_ *restore.Place, err error) {
	streams, err := s.Box.OpenStdio()
	if err != nil {
		return nil, err
	}
	ipc, err := s.Box.KeepsIPC()
	if err != nil {
		return nil, errors.Join(err, streams.Close())
	}
	binds := s.Box.ViewSources()
	binds[mqueue.Mount] = s.Box.Queues()
	for _, m := range s.Box.Spec.Mounts {
		binds[m.Destination] = m.Source
	}
	return &restore.Place{
		Root: s.Box.Root(), Lower: s.Box.Spec.Root.Path, Net: ns.File(), IPC: ipc, Dev: s.Box.Dev(), Binds: binds, Stdio: streams, Work: s.work(), View: s.work(), PIDs: s.cgroup().PIDs,
	}, nil
}
