package server

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/server/ways"
	"github.com/snapctl/snapctl/vem/hold/sockdiag"
	"github.com/snapctl/snapctl/vem/netns"
	"github.com/snapctl/snapctl/vem/table"
)

// VemTable implements the API: one row for each socket of the apps' networks.
func (srv *Server) VemTable(ctx context.Context, req *api.VemTableRequest) (*api.VemTableResponse, error) {
	if name := req.GetApp(); name != "" {
		if _, err := srv.rooms.Apps.Get(name); err != nil {
			return nil, err
		}
	}
	there, err := srv.Known(ctx)
	if err != nil {
		return nil, err
	}
	resp := &api.VemTableResponse{}
	for _, a := range srv.rooms.Apps.List() {
		rec, _ := a.Read()
		if req.GetApp() != "" && req.GetApp() != rec.Name || req.GetNetwork() != "" && req.GetNetwork() != rec.Network {
			continue
		}
		if rec.Now() == app.Stopped || rec.Now() == app.Removing || rec.Pool != "" {
			continue
		}
		rows, err := srv.vemRows(ctx, a, rec, there)
		if err != nil {
			return nil, fmt.Errorf("table of %s: %w", rec.Name, err)
		}
		resp.Rows = append(resp.Rows, rows...)
	}
	return resp, nil
}

func (srv *Server) vemRows(ctx context.Context, a *engine.App, rec app.Record, there *ways.Elsewhere) (_ []*api.VemRow, err error) {
	ns, err := netns.Open(a.Box.NetPath())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, ns.Close()) }()
	held := a.Endpoint.HeldInodes()
	rows, err := table.Rows(ctx, ns, table.Options{Held: held, Places: there.Places(rec.Network, srv.rooms.Network.Owners(rec.Network))})
	if err != nil {
		return nil, err
	}
	owners := socketOwners(a)
	out := make([]*api.VemRow, len(rows))
	for i, r := range rows {
		actual := "kernel" // not accepted yet, or closed and still finishing
		switch pid, ok := owners[r.Inode]; {
		case r.Status == table.Held:
			actual = "holder"
		case ok:
			actual = fmt.Sprintf("pid %d", pid)
		}
		if r.State == sockdiag.Listen.String() {
			// Length and limit of its accept queue: no bytes. What waits in
			// there has rows of its own.
			r.RecvQ, r.SendQ = 0, 0
		}
		out[i] = &api.VemRow{
			App: rec.Name, Network: rec.Network, Protocol: r.Proto, Local: outside(&rec, r.Local).String(), Remote: remoteText(r.Remote),
			Actual: actual, Inode: r.Inode, Status: string(r.Status), State: r.State, Channel: r.Channel,
			ReceiveQueueBytes: int64(r.RecvQ), SendQueueBytes: int64(r.SendQ), Dropped: int64(r.Drops),
			SentBytes: int64(r.Sent), ReceivedBytes: int64(r.Received), RemoteApp: r.ActualRemote,
		}
		there.Show(out[i], r.Remote.Addr())
	}
	return out, nil
}

// outside is a local address of the app's as others know it.
func outside(r *app.Record, a netip.AddrPort) netip.AddrPort {
	switch inside4, inside6 := r.Inside(); a.Addr() {
	case inside4:
		return netip.AddrPortFrom(r.Addr4, a.Port())
	case inside6:
		return netip.AddrPortFrom(r.Addr6, a.Port())
	}
	return a
}

func remoteText(a netip.AddrPort) string {
	if a.Port() == 0 {
		return "*"
	}
	return a.String()
}

// socketOwners finds a process for each socket that a running app has open.
func socketOwners(a *engine.App) map[uint64]int {
	owners := make(map[uint64]int)
	pids, err := a.Cgroup().PIDs()
	if err != nil {
		return owners // it has just ended
	}
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, fd := range fds {
			link, err := os.Readlink(dir + "/" + fd.Name())
			if err != nil || !strings.HasPrefix(link, "socket:[") {
				continue
			}
			var inode uint64
			if _, err := fmt.Sscanf(link, "socket:[%d]", &inode); err == nil {
				owners[inode] = pid
			}
		}
	}
	return owners
}
