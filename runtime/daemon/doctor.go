package daemon

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
func (srv *server) Doctor(ctx context.Context, _ *api.DoctorRequest) (*api.DoctorResponse, error) {
	resp := &api.DoctorResponse{}
	checks := doctor.Run(ctx, doctor.Options{
		CRIU: []string{srv.d.criu.Path}, StateDir: srv.d.opt.StateDir, Cgroup: filepath.Dir(srv.d.cgroups.Group("doctor").Path()),
	})
	for _, c := range append(checks, srv.checkHolder(ctx), srv.checkSaved(ctx)) {
		resp.Checks = append(resp.Checks, &api.Check{Name: c.Name, Status: string(c.Status), Found: c.Found, Remedy: c.Remedy})
	}
	return resp, nil
}

// checkSaved looks whether all that is saved could come back now. It reads files that may
// have changed, which the lists of apps and snapshots do not.
func (srv *server) checkSaved(ctx context.Context) doctor.Check {
	var found []string
	add := func(what string, all []*api.Obstacle) {
		for _, o := range all {
			found = append(found, what+": "+obstacleText(o))
		}
	}
	n := 0
	for _, a := range srv.d.apps.List() {
		if a.Status() != app.Held {
			continue
		}
		n++
		add("app "+a.Name(), srv.appObstacles(ctx, a, snapshot.ByStamp))
	}
	names, err := srv.d.store.Names()
	if err != nil {
		found = append(found, err.Error())
	}
	for _, name := range names {
		n++
		add("snapshot "+name, srv.snapshotObstacles(ctx, name, snapshot.ByStamp))
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
func (srv *server) checkHolder(ctx context.Context) doctor.Check {
	kept, err := srv.d.vem.Kept(ctx)
	if err != nil {
		return doctor.Check{
			Name: "holder", Status: doctor.Failed, Found: err.Error(),
			Remedy: "snapctld has the held sockets itself until it ends, and goes on trying to start a holder: look into " + filepath.Join(srv.d.opt.RunDir, "holder.log"),
		}
	}
	n := 0
	for _, k := range kept {
		n += k
	}
	return doctor.Check{Name: "holder", Status: doctor.OK, Found: fmt.Sprintf("process %d, with %d descriptors of %d apps", srv.d.vem.HolderPID(), n, len(kept))}
}

// Version implements the API.
func (srv *server) Version(_ context.Context, _ *api.VersionRequest) (*api.VersionResponse, error) {
	v := &api.VersionResponse{
		Version: srv.d.opt.Version, GoVersion: runtime.Version(), Kernel: doctor.Kernel(),
		CriuVersion: criu.VersionText(srv.d.criuVersion), CriuPath: srv.d.criu.Path, StateDir: srv.d.opt.StateDir, RunDir: srv.d.opt.RunDir, Cgroup: srv.d.cgroups.Name(), Pid: int32(os.Getpid()),
		HolderPid: int32(srv.d.vem.HolderPID()),
	}
	return v, nil
}
