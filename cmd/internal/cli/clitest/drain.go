package clitest

import (
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/runtime/api"
)

// DrainHost moves all apps to the other host. One called "bound" stays, and so does one called "late", whose turn comes
// only when the drain is stopped.
func (f server) DrainHost(s grpc.BidiStreamingServer[api.DrainRequest, api.DrainEvent]) error {
	req, err := s.Recv()
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	self, err := f.findHost("")
	if err != nil {
		return err
	}
	if req.GetHost() != "" && req.GetHost() != self.GetName() {
		s.SetTrailer(metadata.Pairs("snapctl-hint", "run it there: snapctl host drain"))
		return status.Errorf(codes.FailedPrecondition, "host %s is drained on host %s itself", req.GetHost(), req.GetHost())
	}
	for _, to := range req.GetTo() {
		if _, err := f.findHost(to); err != nil {
			return err
		}
	}
	self.Cordoned = self.GetCordoned() || !req.GetDryRun()
	r := &api.DrainResult{Host: self.GetName(), TotalUs: 2_100_000}
	for _, a := range f.Apps {
		d := &api.DrainedApp{App: a.GetName(), Status: "running"}
		switch {
		case a.GetName() == "late" && !req.GetDryRun():
			for m := new(api.DrainRequest); !m.GetStop(); {
				if m, err = s.Recv(); err != nil {
					return err
				}
			}
			r.Stopped, d.Status, d.Error = true, "", "the drain was ended before the app's turn came"
		case a.GetName() == "bound" && !req.GetSharedBinds():
			d.Error, d.Hint = "move app bound to host there: host there refuses: the app has /srv by --bind", "say --shared-binds"
		default:
			d.Move = &api.Move{App: a.GetName(), From: self.GetName(), To: "there", SentBytes: 4 << 20, SavedBytes: 30 << 20, PauseUs: 5_200, StoodUs: 160_000, Connections: 12, DryRun: req.GetDryRun()}
		}
		if a.GetName() == "lossy" {
			d.Lost = []string{"tcp 10.77.0.7:80 to 10.77.0.9:4000: it waits to be accepted"}
		}
		r.Apps = append(r.Apps, d)
		for _, p := range []*api.DrainProgress{{App: a.GetName(), To: "there", Step: "send", DoneBytes: 3 << 20, TotalBytes: 12 << 20}, {App: a.GetName(), Ended: d}} {
			if d.GetStatus() == "" {
				continue
			}
			if err := s.Send(&api.DrainEvent{Event: &api.DrainEvent_Progress{Progress: p}}); err != nil {
				return err
			}
		}
	}
	if !req.GetDryRun() {
		moved := func(a *api.App) bool {
			return slices.ContainsFunc(r.GetApps(), func(d *api.DrainedApp) bool { return d.GetApp() == a.GetName() && d.GetMove() != nil })
		}
		f.Apps = slices.DeleteFunc(f.Apps, moved)
	}
	return s.Send(&api.DrainEvent{Event: &api.DrainEvent_Result{Result: r}})
}
