package clitest

import (
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/runtime/api"
)

// PushSnapshot takes a snapshot to a host, where one called "taken" is already, and which has no room for one
// called "large".
func (f server) PushSnapshot(req *api.TransferRequest, out grpc.ServerStreamingServer[api.TransferEvent]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.findSnapshot(req.GetSnapshot()); err != nil {
		return err
	}
	if _, err := f.findHost(req.GetHost()); err != nil {
		return err
	}
	if req.GetAs() == "large" {
		out.SetTrailer(metadata.Pairs("snapctl-hint", "host "+req.GetHost()+": free 1048576 bytes there"))
		return status.Errorf(codes.ResourceExhausted, "host %s: there is not enough room", req.GetHost())
	}
	return transfer(req, out)
}

// PullSnapshot gets one that this host did not have.
func (f server) PullSnapshot(req *api.TransferRequest, out grpc.ServerStreamingServer[api.TransferEvent]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.findHost(req.GetHost()); err != nil {
		return err
	}
	if err := transfer(req, out); err != nil {
		return err
	}
	f.Snapshots = append(f.Snapshots, &api.Snapshot{Name: asOf(req), App: "cache"})
	return nil
}

// PushTemplate takes a template to a host, as PushSnapshot does a snapshot.
func (f server) PushTemplate(req *api.TransferRequest, out grpc.ServerStreamingServer[api.TransferEvent]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.findTemplate(req.GetSnapshot()); err != nil {
		return err
	}
	if _, err := f.findHost(req.GetHost()); err != nil {
		return err
	}
	return transfer(req, out)
}

// PullTemplate gets one that this host did not have.
func (f server) PullTemplate(req *api.TransferRequest, out grpc.ServerStreamingServer[api.TransferEvent]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.findHost(req.GetHost()); err != nil {
		return err
	}
	if err := transfer(req, out); err != nil {
		return err
	}
	f.Templates = append(f.Templates, &api.Template{Name: asOf(req), Snapshot: asOf(req), App: "cache"})
	return nil
}

func asOf(req *api.TransferRequest) string {
	if req.GetAs() != "" {
		return req.GetAs()
	}
	return req.GetSnapshot()
}

func transfer(req *api.TransferRequest, out grpc.ServerStreamingServer[api.TransferEvent]) error {
	if asOf(req) == "taken" {
		return status.Error(codes.AlreadyExists, "taken: already exists")
	}
	p := &api.TransferProgress{SentBytes: 1 << 20, DoneBytes: 3 << 20, TotalBytes: 12 << 20, SavedBytes: 30 << 20, Files: 2, TotalFiles: 8}
	if err := out.Send(&api.TransferEvent{Event: &api.TransferEvent_Progress{Progress: p}}); err != nil {
		return err
	}
	total := proto.CloneOf(p)
	total.SentBytes, total.DoneBytes, total.Files = 4<<20, total.GetTotalBytes(), 8
	r := &api.TransferResult{Snapshot: asOf(req), Host: req.GetHost(), Total: total, TookUs: 320_000}
	if req.GetBandwidthBytes() == 1<<20 {
		r.Notes = []string{"it was saved on Linux 6.18, and this host has 6.1, which is older"}
	}
	return out.Send(&api.TransferEvent{Event: &api.TransferEvent_Result{Result: r}})
}
