package server

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/sandbox"
)

// Ids implements the API: what the app's own ids are on the host.
func (srv *Server) Ids(_ context.Context, req *api.AppRequest) (*api.IdsResponse, error) { //nolint:revive // named by the API
	a, err := srv.rooms.Apps.Get(req.GetName())
	if err != nil {
		return nil, err
	}
	rec, _ := a.Read()
	var ids []*api.Id
	add := func(kind, virtual, actual, detail string) {
		ids = append(ids, &api.Id{Kind: kind, Virtual: virtual, Actual: actual, Detail: detail})
	}
	add("hostname", rec.Spec.Hostname, rec.Name, "on host "+kernelHostname())
	inside4, inside6 := rec.Inside()
	add("address", inside4.String(), rec.Addr4.String(), "network "+rec.Network)
	if rec.Addr6.IsValid() {
		add("address", inside6.String(), rec.Addr6.String(), "network "+rec.Network)
	}
	for _, p := range rec.Publish {
		host := "*"
		if p.HostAddr.IsValid() {
			host = p.HostAddr.String()
		}
		add("port", fmt.Sprintf("%s:%d/%s", rec.Addr4, p.Port, p.Proto), fmt.Sprintf("%s:%d/%s", host, p.HostPort, p.Proto), "published")
	}
	add("path", "/", a.Box.Root(), "overlay, writes in "+a.Box.Upper())
	add("path", "/dev", a.Box.Dev(), "")
	for i, l := range rec.Layers {
		add("storage", fmt.Sprintf("layer %d", i+1), srv.rooms.Layers.Path(l.ID), "shared, read-only")
	}
	for _, f := range rec.Memory {
		add("storage", "memory", srv.rooms.Memory.Path(f.ID), "shared, mapped copy on write")
	}
	for _, m := range rec.Spec.Mounts {
		add("path", m.Destination, m.Source, strings.Join(m.Options, ","))
	}
	pids, err := a.Cgroup().PIDs()
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		if virtual, name, ok := virtualPID(pid); ok {
			add("pid", virtual, strconv.Itoa(pid), name)
		}
	}
	for _, kind := range sandbox.Namespaces() {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", rec.Process.PID, kind))
		if err == nil {
			add("namespace", kind, link, "")
		}
	}
	ids = append(ids, ipcIDs(rec.Process.PID)...)
	return &api.IdsResponse{Ids: ids}, nil
}

func kernelHostname() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}

// virtualPID is the id by which a process knows itself, and its name.
func virtualPID(pid int) (virtual, name string, ok bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", "", false
	}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		switch key {
		case "Name":
			name = strings.TrimSpace(value)
		case "NSpid":
			if f := strings.Fields(value); len(f) > 0 {
				virtual = f[len(f)-1]
			}
		}
	}
	return virtual, name, virtual != ""
}

// ipcIDs lists the System V objects of the app's ipc namespace: their keys and
// ids are the app's own, and the namespace is what they are unique in outside.
func ipcIDs(pid int) []*api.Id {
	ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", pid))
	if err != nil {
		return nil
	}
	tables, err := sandbox.SystemV(pid)
	if err != nil {
		return nil // it has just ended
	}
	var ids []*api.Id
	for _, kind := range slices.Sorted(maps.Keys(tables)) {
		for _, line := range tables[kind] {
			if f := strings.Fields(line); len(f) > 1 {
				ids = append(ids, &api.Id{Kind: "ipc", Virtual: kind + " key " + f[0] + " id " + f[1], Actual: ns + " id " + f[1]})
			}
		}
	}
	return ids
}
