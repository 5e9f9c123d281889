package clitest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
)

// Began is when everything happens in the fake daemon's world; the tests' clock
// is two minutes later.
var Began = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// Daemon is a daemon whose apps are records. Some names have a meaning:
//
//   - an app called uring can't be hibernated,
//   - an app called busy has an operation going on,
//   - a snapshot called torn comes back without some of its sockets.
type Daemon struct {
	mu        sync.Mutex
	Apps      []*api.App
	Snapshots []*api.Snapshot
	Templates []*api.Template
	LastRun   *api.RunRequest
	LastClone *api.CloneRequest
	Copied    []string // what was woken or restored with its memory copied
	Checks    []*api.Check
	Hosts     []*api.Host // none: this host is alone
	// ChannelDown tells that the channel to the other host, if there is one, is down.
	ChannelDown bool
	Gateway     *api.Gateway // nil: nobody has asked
}

// server answers the API for a daemon.
type server struct {
	*Daemon
	api.UnimplementedSnapctlServer
}

// Serve answers on a socket until stop is called.
func (f *Daemon) Serve(ctx context.Context, socket string) (stop func() error, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	g := grpc.NewServer()
	api.RegisterSnapctlServer(g, server{Daemon: f})
	done := make(chan error, 1)
	go func() { done <- g.Serve(l) }()
	return func() error {
		g.Stop()
		if err := <-done; !errors.Is(err, grpc.ErrServerStopped) { // stopped before it served
			return err
		}
		return nil
	}, nil
}

// serveFor answers until the test ends.
func (f *Daemon) serveFor(t *testing.T, socket string) {
	t.Helper()
	stop, err := f.Serve(t.Context(), socket)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(stop())) })
}

func (f *Daemon) find(name string) (*api.App, error) {
	for _, a := range f.Apps {
		if a.GetName() == name {
			return a, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "app %s: not found", name)
}

func (f *Daemon) findSnapshot(name string) (*api.Snapshot, error) {
	for _, s := range f.Snapshots {
		if s.GetName() == name {
			return s, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "snapshot %s: not found", name)
}

func (f server) Run(_ context.Context, req *api.RunRequest) (*api.App, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.LastRun = req
	name := req.GetName()
	if name == "" {
		name = req.GetArgs()[0]
	}
	if strings.ContainsRune(name, '/') {
		return nil, status.Errorf(codes.InvalidArgument, "name %q: use letters and digits", name)
	}
	if _, err := f.find(name); err == nil {
		return nil, status.Errorf(codes.AlreadyExists, "app %s: already exists", name)
	}
	a := &api.App{
		Name: name, Status: api.Status_STATUS_RUNNING, Network: "default", Args: req.GetArgs(), Pid: int32(4711 + len(f.Apps)),
		Endpoint: fmt.Sprintf("10.77.0.%d", 2+len(f.Apps)), CreatedAt: timestamppb.New(Began), StatusAt: timestamppb.New(Began),
		Wake: req.GetWake(), HibernateAfter: req.GetHibernateAfter(), RestoreMemory: req.GetRestoreMemory(), Publish: req.GetPublish(), Limits: req.GetLimits(), Binds: req.GetBinds(),
		Rootfs: "/", Hostname: name, User: "0", Workdir: "/", Processes: 1, MemoryBytes: 12 << 20,
	}
	if req.GetEndpoint() != "" {
		a.Endpoint = req.GetEndpoint()
	}
	if req.GetNetwork() != "" {
		a.Network = req.GetNetwork()
	}
	f.Apps = append(f.Apps, a)
	slices.SortFunc(f.Apps, func(a, b *api.App) int { return strings.Compare(a.GetName(), b.GetName()) })
	return a, nil
}

func (f server) List(context.Context, *api.ListRequest) (*api.ListResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.ListResponse{Apps: f.Apps}, nil
}

func (f server) Show(_ context.Context, req *api.AppRequest) (*api.App, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find(req.GetName())
}

func (f server) Stop(_ context.Context, req *api.StopRequest) (*api.App, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, err := f.find(req.GetName())
	if err != nil {
		return nil, err
	}
	a.Status, a.Pid, a.Processes, a.MemoryBytes, a.HeldSockets = api.Status_STATUS_STOPPED, 0, 0, 0, 0
	a.Exit = "signal 15 (SIGTERM)"
	if req.GetSignal() != "" {
		a.Exit = "signal SIG" + req.GetSignal()
	}
	return a, nil
}

func (f server) Remove(ctx context.Context, req *api.RemoveRequest) (*api.RemoveResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, err := f.find(req.GetName())
	if err != nil {
		return nil, err
	}
	if a.GetStatus() != api.Status_STATUS_STOPPED && !req.GetForce() {
		hint(ctx, "stop it first, or use --force")
		return nil, status.Errorf(codes.FailedPrecondition, "app %s is running", a.GetName())
	}
	f.Apps = slices.DeleteFunc(f.Apps, func(b *api.App) bool { return a == b })
	return &api.RemoveResponse{}, nil
}

// hint sends a hint with a request's answer.
func hint(ctx context.Context, text string) {
	if err := grpc.SetTrailer(ctx, metadata.Pairs("snapctl-hint", text)); err != nil {
		panic(err) // ctx is no request's
	}
}

// tell sends progress and then the result.
func tell(out grpc.ServerStreamingServer[api.Event], result *api.Result, steps ...*api.Progress) error {
	for _, p := range steps {
		if err := out.Send(&api.Event{Event: &api.Event_Progress{Progress: p}}); err != nil {
			return err
		}
	}
	return out.Send(&api.Event{Event: &api.Event_Result{Result: result}})
}
