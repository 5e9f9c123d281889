package clitest

import (
	"context"
	"fmt"
	"strings"

	"google.golang.org/grpc"

	"github.com/snapctl/snapctl/runtime/api"
)

func (f server) Ids(_ context.Context, req *api.AppRequest) (*api.IdsResponse, error) { //nolint:revive // named by the API
	f.mu.Lock()
	defer f.mu.Unlock()
	a, err := f.find(req.GetName())
	if err != nil {
		return nil, err
	}
	return &api.IdsResponse{Ids: []*api.Id{
		{Kind: "pid", Virtual: "1", Actual: fmt.Sprint(a.GetPid()), Detail: "redis-server"},
		{Kind: "address", Virtual: a.GetEndpoint(), Actual: "network " + a.GetNetwork()},
	}}, nil
}

func (f server) VemTable(_ context.Context, req *api.VemTableRequest) (*api.VemTableResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &api.VemTableResponse{}
	for _, a := range f.Apps {
		if req.GetApp() != "" && req.GetApp() != a.GetName() || req.GetNetwork() != "" && req.GetNetwork() != a.GetNetwork() {
			continue
		}
		row := &api.VemRow{
			App: a.GetName(), Network: a.GetNetwork(), Protocol: "tcp", Local: a.GetEndpoint() + ":6379", Actual: fmt.Sprintf("pid %d", a.GetPid()),
			Inode: 4242, Status: "up", State: "LISTEN",
		}
		if a.GetStatus() == api.Status_STATUS_HELD {
			row.Actual, row.Status, row.ReceiveQueueBytes = "holder", "held", 14
		}
		r.Rows = append(r.Rows, row)
		if c := f.channel(); c != nil {
			row.Host = "here"
			far := &api.VemRow{
				App: a.GetName(), Network: a.GetNetwork(), Protocol: "tcp", Local: a.GetEndpoint() + ":40000", Remote: thereEndpoint + ":5432", Actual: row.GetActual(),
				Inode: 4243, Status: "up", State: "ESTABLISHED", Channel: "direct to there", Host: "here", RemoteApp: thereApp, RemoteHost: "there",
				Module: c.GetModule(), Interface: c.GetDevice(), UnderlayLocal: c.GetLocal(), UnderlayRemote: c.GetRemote(), Since: c.GetSince(),
				SentBytes: 3 << 10, ReceivedBytes: 2 << 20,
			}
			if !c.GetUp() {
				far.Status = "down"
			}
			r.Rows = append(r.Rows, far)
		}
	}
	return r, nil
}

func (f server) Logs(req *api.LogsRequest, out grpc.ServerStreamingServer[api.LogsChunk]) error {
	lines := []string{"starting\n", "ready to accept connections\n"}
	if n := int(req.GetTailLines()); n > 0 {
		lines = lines[max(0, len(lines)-n):]
	}
	if err := out.Send(&api.LogsChunk{Data: []byte(strings.Join(lines, ""))}); err != nil {
		return err
	}
	if req.GetFollow() {
		<-out.Context().Done()
	}
	return out.Context().Err()
}

func (f server) Doctor(context.Context, *api.DoctorRequest) (*api.DoctorResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.DoctorResponse{Checks: append([]*api.Check{
		{Name: "kernel", Status: "ok", Found: "6.18.0"},
		{Name: "criu.kdat", Status: "warning", Found: "/run is not a tmpfs", Remedy: "mount a tmpfs on /run: each start of CRIU takes 30-90 ms longer without"},
	}, f.Checks...)}, nil
}

func (f server) Version(context.Context, *api.VersionRequest) (*api.VersionResponse, error) {
	return &api.VersionResponse{
		Version: "1.2.3", GoVersion: "go1.26.0", CriuVersion: "4.2.1", CriuPath: "/usr/sbin/criu", Kernel: "6.18.0",
		StateDir: "/var/lib/snapctl", RunDir: "/run/snapctl", Cgroup: "/snapctl", HolderPid: 101, Pid: 100,
	}, nil
}
