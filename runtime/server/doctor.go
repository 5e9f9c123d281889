package server

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/doctor"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/criu"
)

// Doctor implements the API: what of this host stands in snapctl's way, and
// what to do about it. It changes nothing that lasts.
func (srv *Server) Doctor(ctx context.Context, _ *api.DoctorRequest) (*api.DoctorResponse, error) {
	resp := &api.DoctorResponse{}
	checks := doctor.Run(ctx, doctor.Options{
		CRIU: []string{srv.opt.CRIU}, StateDir: srv.opt.StateDir, Cgroup: srv.opt.CgroupDir,
	})
	for _, c := range append(checks, srv.checkHolder(ctx), srv.checkSaved(ctx)) {
		resp.Checks = append(resp.Checks, &api.Check{Name: c.Name, Status: string(c.Status), Found: c.Found, Remedy: c.Remedy})
	}
	for _, c := range srv.rooms.Ways.Checkup(ctx) {
		resp.Checks = append(resp.Checks, &api.Check{Name: c.Name, Status: string(c.Status), Found: c.Found, Remedy: c.Remedy})
	}
	return resp, nil
}

// checkSaved looks whether all that is saved could come back now. It reads files that may
// have changed, which the lists of apps and snapshots do not.
func (srv *Server) checkSaved(ctx context.Context) doctor.Check {
	var found []string
	add := func(what string, all []*api.Obstacle) {
		for _, o := range all {
			found = append(found, what+": "+obstacleText(o))
		}
	}
	n := 0
	for _, a := range srv.rooms.Apps.List() {
		if a.Status() != app.Held {
			continue
		}
		n++
		add("app "+a.Name(), showObstacles(srv.rooms.Obstacles.AppObstacles(ctx, a, snapshot.ByStamp)))
	}
	names, err := srv.rooms.Snapshots.Names()
	if err != nil {
		found = append(found, err.Error())
	}
	for _, name := range names {
		n++
		add("snapshot "+name, showObstacles(srv.rooms.Obstacles.SnapshotObstacles(ctx, name, snapshot.ByStamp)))
	}
	if len(found) > 0 {
		return doctor.Check{
			Name: "saved-apps", Status: doctor.Warning, Found: strings.Join(found, "; "),
			Remedy: "put back what is missing before you wake or restore them; nothing is lost until then",
		}
	}
	return doctor.Check{Name: "saved-apps", Status: doctor.OK, Found: fmt.Sprintf("%d hibernated apps and snapshots find all files that they need", n)}
}

// checkHolder looks whether the holder answers, which only its daemon can.
func (srv *Server) checkHolder(ctx context.Context) doctor.Check {
	kept, err := srv.rooms.Network.Kept(ctx)
	if err != nil {
		return doctor.Check{
			Name: "holder", Status: doctor.Failed, Found: err.Error(),
			Remedy: "snapctld has the held sockets itself until it ends, and goes on trying to start a holder: look into " + filepath.Join(srv.opt.RunDir, "holder.log"),
		}
	}
	n := 0
	for _, k := range kept {
		n += k
	}
	return doctor.Check{Name: "holder", Status: doctor.OK, Found: fmt.Sprintf("process %d, with %d descriptors of %d apps", srv.rooms.Network.HolderPID(), n, len(kept))}
}

// Version implements the API.
func (srv *Server) Version(_ context.Context, _ *api.VersionRequest) (*api.VersionResponse, error) {
	v := &api.VersionResponse{
		Version: srv.opt.Version, GoVersion: runtime.Version(), Kernel: doctor.Kernel(),
		CriuVersion: criu.VersionText(srv.opt.CRIUVersion), CriuPath: srv.opt.CRIU, StateDir: srv.opt.StateDir, RunDir: srv.opt.RunDir, Cgroup: srv.opt.Cgroup, Pid: int32(os.Getpid()),
		HolderPid: int32(srv.rooms.Network.HolderPID()),
	}
	return v, nil
}
