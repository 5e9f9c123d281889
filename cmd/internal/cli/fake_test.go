package cli

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

// began is when everything happens in the fake daemon's world; the tests' clock
// is two minutes later.
var began = time.Date(2026, 1, 2, 15, 4, 5, 0, time.UTC)

// fake is a daemon whose apps are records. Some names have a meaning:
//
//   - an app called uring can't be hibernated,
//   - an app called busy has an operation going on,
//   - a snapshot called torn comes back without some of its sockets.
type fake struct {
	api.UnimplementedSnapctlServer

	mu        sync.Mutex
	apps      []*api.App
	snapshots []*api.Snapshot
	templates []*api.Template
	last      *api.RunRequest
	cloned    *api.CloneRequest
	copied    []string // what was woken or restored with its memory copied
	checks    []*api.Check
}

// serve answers on a socket until stop is called.
func (f *fake) serve(ctx context.Context, socket string) (stop func() error, err error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	g := grpc.NewServer()
	api.RegisterSnapctlServer(g, f)
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
func (f *fake) serveFor(t *testing.T, socket string) {
	t.Helper()
	stop, err := f.serve(t.Context(), socket)
	qt.Assert(t, qt.IsNil(err))
	t.Cleanup(func() { qt.Check(t, qt.IsNil(stop())) })
}

func (f *fake) find(name string) (*api.App, error) {
	for _, a := range f.apps {
		if a.GetName() == name {
			return a, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "app %s: not found", name)
}

func (f *fake) findSnapshot(name string) (*api.Snapshot, error) {
	for _, s := range f.snapshots {
		if s.GetName() == name {
			return s, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "snapshot %s: not found", name)
}

func (f *fake) Run(_ context.Context, req *api.RunRequest) (*api.App, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.last = req
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
		Name: name, Status: api.Status_STATUS_RUNNING, Network: "default", Args: req.GetArgs(), Pid: int32(4711 + len(f.apps)),
		Endpoint: fmt.Sprintf("10.77.0.%d", 2+len(f.apps)), CreatedAt: timestamppb.New(began), StatusAt: timestamppb.New(began),
		Wake: req.GetWake(), HibernateAfter: req.GetHibernateAfter(), RestoreMemory: req.GetRestoreMemory(), Publish: req.GetPublish(), Limits: req.GetLimits(), Binds: req.GetBinds(),
		Rootfs: "/", Hostname: name, User: "0", Workdir: "/", Processes: 1, MemoryBytes: 12 << 20,
	}
	if req.GetEndpoint() != "" {
		a.Endpoint = req.GetEndpoint()
	}
	if req.GetNetwork() != "" {
		a.Network = req.GetNetwork()
	}
	f.apps = append(f.apps, a)
	slices.SortFunc(f.apps, func(a, b *api.App) int { return strings.Compare(a.GetName(), b.GetName()) })
	return a, nil
}

func (f *fake) List(context.Context, *api.ListRequest) (*api.ListResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.ListResponse{Apps: f.apps}, nil
}

func (f *fake) Show(_ context.Context, req *api.AppRequest) (*api.App, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.find(req.GetName())
}

func (f *fake) Stop(_ context.Context, req *api.StopRequest) (*api.App, error) {
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

func (f *fake) Remove(ctx context.Context, req *api.RemoveRequest) (*api.RemoveResponse, error) {
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
	f.apps = slices.DeleteFunc(f.apps, func(b *api.App) bool { return a == b })
	return &api.RemoveResponse{}, nil
}

// hint sends a hint with a request's answer.
func hint(ctx context.Context, text string) {
	if err := grpc.SetTrailer(ctx, metadata.Pairs("snapctl-hint", text)); err != nil {
		panic(err) // ctx is no request's
	}
}

func (f *fake) Hibernate(req *api.HibernateRequest, out grpc.ServerStreamingServer[api.Event]) error {
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

// tell sends progress and then the result.
func tell(out grpc.ServerStreamingServer[api.Event], result *api.Result, steps ...*api.Progress) error {
	for _, p := range steps {
		if err := out.Send(&api.Event{Event: &api.Event_Progress{Progress: p}}); err != nil {
			return err
		}
	}
	return out.Send(&api.Event{Event: &api.Event_Result{Result: result}})
}

func (f *fake) Wake(req *api.WakeRequest, out grpc.ServerStreamingServer[api.Event]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, err := f.find(req.GetName())
	if err != nil {
		return err
	}
	if req.GetCopy() {
		f.copied = append(f.copied, req.GetName())
	}
	a.Status, a.Pid, a.Processes, a.HeldSockets, a.MemoryBytes = api.Status_STATUS_RUNNING, 4800, 1, 0, 12<<20
	return tell(out, &api.Result{App: a, TotalUs: 58_000})
}

func (f *fake) TakeSnapshot(req *api.SnapshotRequest, out grpc.ServerStreamingServer[api.Event]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	a, err := f.find(req.GetApp())
	if err != nil {
		return err
	}
	name := req.GetName()
	if name == "" {
		name = fmt.Sprintf("%s-%d", a.GetName(), 1+len(f.snapshots))
	}
	s := &api.Snapshot{
		Name: name, App: a.GetName(), CreatedAt: timestamppb.New(began), SizeBytes: 13 << 20, MemoryBytes: 12 << 20, StorageBytes: 1 << 10,
		Endpoint: a.GetEndpoint(), Network: a.GetNetwork(), Args: a.GetArgs(), CriuVersion: "4.2.1", Kernel: "6.18.0", Processes: 1,
	}
	if a.GetTemplate() != "" {
		s.MemorySharedBytes, s.SizeBytes, s.MemoryBytes = 11<<20, 2<<20, 1<<20
	}
	f.snapshots = append(f.snapshots, s)
	if req.GetStop() {
		a.Status, a.Exit = api.Status_STATUS_STOPPED, "ended by snapshot "+name
	}
	return tell(out, &api.Result{App: a, Snapshot: s, FrozenUs: 40_000, TotalUs: 70_000})
}

func (f *fake) ListSnapshots(context.Context, *api.ListRequest) (*api.ListSnapshotsResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.ListSnapshotsResponse{Snapshots: f.snapshots}, nil
}

func (f *fake) RemoveSnapshot(_ context.Context, req *api.RemoveSnapshotRequest) (*api.RemoveResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.findSnapshot(req.GetName())
	if err != nil {
		return nil, err
	}
	f.snapshots = slices.DeleteFunc(f.snapshots, func(b *api.Snapshot) bool { return s == b })
	return &api.RemoveResponse{}, nil
}

func (f *fake) Restore(req *api.RestoreRequest, out grpc.ServerStreamingServer[api.Event]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	s, err := f.findSnapshot(req.GetSnapshot())
	if err != nil {
		return err
	}
	if req.GetCopy() {
		f.copied = append(f.copied, req.GetSnapshot())
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
	f.apps = append(f.apps, a)
	r := &api.Result{App: a, TotalUs: 120_000}
	if s.GetName() == "torn" {
		r.Sockets = []*api.SocketOutcome{
			{Socket: "tcp 10.77.0.7:6379 <- 10.77.0.1:5123", Outcome: "reset", Reason: "the connection belongs to app cache"},
			{Socket: "tcp 10.77.0.7:6379", Outcome: "kept"},
		}
	}
	return tell(out, r)
}

func (f *fake) Inspect(_ context.Context, req *api.InspectRequest) (*api.InspectResponse, error) {
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

func (f *fake) Ids(_ context.Context, req *api.AppRequest) (*api.IdsResponse, error) { //nolint:revive // named by the API
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

func (f *fake) VemTable(_ context.Context, req *api.VemTableRequest) (*api.VemTableResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := &api.VemTableResponse{}
	for _, a := range f.apps {
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
	}
	return r, nil
}

func (f *fake) Logs(req *api.LogsRequest, out grpc.ServerStreamingServer[api.LogsChunk]) error {
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

// Exec knows a few commands: cat, env, exit N, size, which prints the terminal's,
// and what prints its arguments on standard error.
func (f *fake) Exec(both grpc.BidiStreamingServer[api.ExecInput, api.ExecOutput]) error {
	first, err := both.Recv()
	if err != nil {
		return err
	}
	start := first.GetStart()
	f.mu.Lock()
	_, err = f.find(start.GetName())
	f.mu.Unlock()
	if err != nil {
		return err
	}
	code := int32(0)
	stdout := func(text string) error {
		return both.Send(&api.ExecOutput{Output: &api.ExecOutput_Stdout{Stdout: []byte(text)}})
	}
	switch args := start.GetArgs(); args[0] {
	case "cat":
		for {
			m, err := both.Recv()
			if err != nil {
				return err
			}
			if m.GetStdinClosed() {
				break
			}
			if err := stdout(string(m.GetStdin())); err != nil {
				return err
			}
		}
	case "env":
		err = stdout(strings.Join(start.GetEnv(), "\n") + "\n")
	case "exit":
		_, err = fmt.Sscan(args[1], &code)
	case "size":
		if err := stdout(fmt.Sprintf("%dx%d\n", start.GetRows(), start.GetColumns())); err != nil {
			return err
		}
		for {
			m, err := both.Recv()
			if err != nil {
				return err
			}
			if size := m.GetResize(); size != nil {
				if err := stdout(fmt.Sprintf("%dx%d\n", size.GetRows(), size.GetColumns())); err != nil {
					return err
				}
				break
			}
		}
	default:
		err = both.Send(&api.ExecOutput{Output: &api.ExecOutput_Stderr{Stderr: []byte(strings.Join(args, " ") + "\n")}})
	}
	if err != nil {
		return err
	}
	return both.Send(&api.ExecOutput{Output: &api.ExecOutput_ExitCode{ExitCode: code}})
}

func (f *fake) Doctor(context.Context, *api.DoctorRequest) (*api.DoctorResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.DoctorResponse{Checks: append([]*api.Check{
		{Name: "kernel", Status: "ok", Found: "6.18.0"},
		{Name: "criu.kdat", Status: "warning", Found: "/run is not a tmpfs", Remedy: "mount a tmpfs on /run: each start of CRIU takes 30-90 ms longer without"},
	}, f.checks...)}, nil
}

func (f *fake) Version(context.Context, *api.VersionRequest) (*api.VersionResponse, error) {
	return &api.VersionResponse{
		Version: "1.2.3", GoVersion: "go1.26.0", CriuVersion: "4.2.1", CriuPath: "/usr/sbin/criu", Kernel: "6.18.0",
		StateDir: "/var/lib/snapctl", RunDir: "/run/snapctl", Cgroup: "/snapctl", HolderPid: 101, Pid: 100,
	}, nil
}
