package clitest

import (
	"context"
	"fmt"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
)

func (f server) Hibernate(req *api.HibernateRequest, out grpc.ServerStreamingServer[api.Event]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, err := f.find(req.GetName())
	switch {
	case err != nil:
		return err
	case a.GetName() == "uring":
		out.SetTrailer(metadata.Pairs("snapctl-hint", "switch io_uring off in the app"))
		return status.Error(codes.Unimplemented, "process 4711 has an unsupported io_uring open as descriptor 9")
	case a.GetName() == "busy" && req.GetTimeout() != nil:
		return status.Errorf(codes.DeadlineExceeded, "hibernate busy: busy: snapshot is going on")
	case a.GetName() == "busy":
		return status.Errorf(codes.Aborted, "hibernate busy: busy: snapshot is going on")
	case a.GetStatus() == api.Status_STATUS_STOPPED:
		return status.Errorf(codes.FailedPrecondition, "app %s is stopped: it can't be hibernated", a.GetName())
	}
	a.Status, a.Pid, a.Processes, a.HeldSockets, a.MemoryBytes = api.Status_STATUS_HELD, 0, 0, 212, 0
	return tell(out, &api.Result{
		App: a, FrozenUs: 64_200, TotalUs: 91_000, StepsUs: map[string]int64{"freeze": 1_200, "save memory": 60_000},
	}, &api.Progress{Step: "freeze"}, &api.Progress{Step: "save memory", DoneBytes: 3 << 20, TotalBytes: 12 << 20})
}

func (f server) Wake(req *api.WakeRequest, out grpc.ServerStreamingServer[api.Event]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, err := f.find(req.GetName())
	if err != nil {
		return err
	}
	if req.GetCopy() {
		f.Copied = append(f.Copied, req.GetName())
	}
	r := &api.Result{App: a, TotalUs: 58_000, Host: req.GetHost()}
	if r.GetHost() != "" {
		if _, err := f.findHost(r.GetHost()); err != nil {
			return err
		}
	}
	a.Status, a.Pid, a.Processes, a.HeldSockets, a.MemoryBytes = api.Status_STATUS_RUNNING, 4800, 1, 0, 12<<20
	return tell(out, r)
}

func (f server) TakeSnapshot(req *api.SnapshotRequest, out grpc.ServerStreamingServer[api.Event]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, err := f.find(req.GetApp())
	if err != nil {
		return err
	}
	name := req.GetName()
	if name == "" {
		name = fmt.Sprintf("%s-%d", a.GetName(), 1+len(f.Snapshots))
	}
	s := &api.Snapshot{
		Name: name, App: a.GetName(), CreatedAt: timestamppb.New(Began), SizeBytes: 13 << 20, MemoryBytes: 12 << 20, StorageBytes: 1 << 10,
		Endpoint: a.GetEndpoint(), Network: a.GetNetwork(), Args: a.GetArgs(), CriuVersion: "4.2.1", Kernel: "6.18.0", Processes: 1,
	}
	if a.GetTemplate() != "" {
		s.MemorySharedBytes, s.SizeBytes, s.MemoryBytes = 11<<20, 2<<20, 1<<20
	}
	f.Snapshots = append(f.Snapshots, s)
	if req.GetStop() {
		a.Status, a.Exit = api.Status_STATUS_STOPPED, "ended by snapshot "+name
	}
	return tell(out, &api.Result{App: a, Snapshot: s, FrozenUs: 40_000, TotalUs: 70_000})
}

func (f server) ListSnapshots(context.Context, *api.ListRequest) (*api.ListSnapshotsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.ListSnapshotsResponse{Snapshots: f.Snapshots}, nil
}

func (f server) RemoveSnapshot(_ context.Context, req *api.RemoveSnapshotRequest) (*api.RemoveResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.findSnapshot(req.GetName())
	if err != nil {
		return nil, err
	}
	f.Snapshots = slices.DeleteFunc(f.Snapshots, func(b *api.Snapshot) bool { return s == b })
	return &api.RemoveResponse{}, nil
}

// Restore makes an app, here or on another host. That has another snapshot called "clash".
func (f server) Restore(req *api.RestoreRequest, out grpc.ServerStreamingServer[api.Event]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.findSnapshot(req.GetSnapshot())
	if err != nil {
		return err
	}
	if req.GetHost() != "" {
		if _, err := f.findHost(req.GetHost()); err != nil {
			return err
		}
		if s.GetName() == "clash" {
			out.SetTrailer(metadata.Pairs("snapctl-hint", "take it there under another name"))
			return status.Errorf(codes.AlreadyExists, "host %s: there is another snapshot clash: already exists", req.GetHost())
		}
	}
	if req.GetCopy() {
		f.Copied = append(f.Copied, req.GetSnapshot())
	}
	a := &api.App{Name: s.GetApp(), Status: api.Status_STATUS_RUNNING, Endpoint: s.GetEndpoint(), Network: s.GetNetwork(), Args: s.GetArgs(), Pid: 4900, RestoredFrom: s.GetName(), Wake: req.GetWake(), HibernateAfter: req.GetHibernateAfter(), RestoreMemory: req.GetRestoreMemory()}
	if req.GetAs() != "" {
		a.Name = req.GetAs()
	}
	if req.GetEndpoint() != "" {
		a.Endpoint = req.GetEndpoint()
	}
	if _, err := f.find(a.GetName()); err == nil {
		return status.Errorf(codes.AlreadyExists, "app %s: already exists", a.GetName())
	}
	r := &api.Result{App: a, TotalUs: 120_000, Host: req.GetHost()}
	if r.GetHost() == "" {
		f.Apps = append(f.Apps, a)
	} else {
		r.Sent = &api.TransferProgress{SentBytes: 4 << 20, DoneBytes: 12 << 20, TotalBytes: 12 << 20, SavedBytes: 30 << 20, Files: 8, TotalFiles: 8}
	}
	if s.GetName() == "torn" {
		r.Sockets = []*api.SocketOutcome{
			{Socket: "tcp 10.77.0.7:6379 <- 10.77.0.1:5123", Outcome: "reset", Reason: "the connection belongs to app cache"},
			{Socket: "tcp 10.77.0.7:6379", Outcome: "kept"},
		}
	}
	return tell(out, r)
}

func (f server) Inspect(_ context.Context, req *api.InspectRequest) (*api.InspectResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.findSnapshot(req.GetSnapshot())
	if err != nil {
		return nil, err
	}
	return &api.InspectResponse{Snapshot: s, InfoJson: []byte(`{"processes":[{"pid":1,"ppid":0,"comm":"redis-server","state":"alive",` +
		`"threads":[{"tid":1},{"tid":2}],"descriptors":[{"fd":0}],"memory":{"mapped_bytes":73400320,"stored_bytes":12582912}}],` +
		`"sockets":[{"protocol":"tcp","state":"LISTEN","local":"0.0.0.0:6379"}]}`)}, nil
}
