package clitest

import (
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/runtime/api"
)

// Migrate moves an app to a host. One called "bound" stays, one called "hasty" can't stand still for short, and one
// called "lossy" loses a connection.
func (f server) Migrate(req *api.MigrateRequest, out grpc.ServerStreamingServer[api.Event]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, err := f.find(req.GetName())
	if err != nil {
		return err
	}
	if _, err := f.findHost(req.GetHost()); err != nil {
		return err
	}
	switch {
	case a.GetName() == "bound" && !req.GetSharedBinds():
		out.SetTrailer(metadata.Pairs("snapctl-hint", "say --shared-binds"))
		return status.Errorf(codes.FailedPrecondition, "move app bound to host %s: host %s refuses: the app has /srv by --bind", req.GetHost(), req.GetHost())
	case a.GetName() == "hasty" && req.GetMaxPause() != nil:
		return status.Errorf(codes.FailedPrecondition, "move app hasty to host %s: it changes too fast", req.GetHost())
	}
	m := &api.Move{
		App: a.GetName(), From: "there", To: req.GetHost(), DryRun: req.GetDryRun(), SentBytes: 4 << 20, SavedBytes: 30 << 20,
		PauseUs: 5_200, StoodUs: 160_000, WokenUs: 40_000, Connections: 12,
		Rounds: []*api.Round{{SentBytes: 4_000_000, SavedBytes: 30 << 20, FrozenUs: 22_000, TookUs: 290_000}},
	}
	if a.GetStatus() == api.Status_STATUS_STOPPED {
		m.PauseUs, m.StoodUs, m.WokenUs, m.Connections, m.Rounds = 0, 0, 0, 0, nil
	}
	r := &api.Result{App: a, TotalUs: 610_000, Move: m}
	if a.GetName() == "lossy" {
		r.Sockets = []*api.SocketOutcome{{Socket: "tcp 10.77.0.7:80 to 10.77.0.9:4000", Outcome: "reset", Reason: "it waits to be accepted"}}
	}
	if !req.GetDryRun() {
		f.Apps = slices.DeleteFunc(f.Apps, func(o *api.App) bool { return o == a })
	}
	return tell(out, r, &api.Progress{Step: "send", DoneBytes: 3 << 20, TotalBytes: 12 << 20})
}
