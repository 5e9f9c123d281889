package daemon

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/doctor"
)

// Doctor implements the API: what of this host stands in snapctl's way, and
// what to do about it. It changes nothing that lasts.
func (d *Daemon) Doctor(ctx context.Context, _ *api.DoctorRequest) (*api.DoctorResponse, error) {
	resp := &api.DoctorResponse{}
	checks := doctor.Run(ctx, doctor.Options{
		CRIU: []string{d.criu.Path}, StateDir: d.opt.StateDir, Cgroup: filepath.Dir(d.cgroups.Group("doctor").Path()),
	})
	for _, c := range append(checks, d.checkHolder(ctx)) {
		resp.Checks = append(resp.Checks, &api.Check{Name: c.Name, Status: string(c.Status), Found: c.Found, Remedy: c.Remedy})
	}
	return resp, nil
}

// checkHolder looks whether the holder answers, which only its daemon can.
func (d *Daemon) checkHolder(ctx context.Context) doctor.Check {
	kept, err := d.fds.List(ctx)
	if err != nil {
		return doctor.Check{
			Name: "holder", Status: doctor.Failed, Found: err.Error(),
			Remedy: "snapctld has the held sockets itself until it ends, and goes on trying to start a holder: look into " + filepath.Join(d.opt.RunDir, "holder.log"),
		}
	}
	n := 0
	for _, k := range kept {
		n += k
	}
	return doctor.Check{Name: "holder", Status: doctor.OK, Found: fmt.Sprintf("process %d, with %d descriptors of %d apps", d.fds.PID(), n, len(kept))}
}
