package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/birth"
	"github.com/snapctl/snapctl/runtime/catalog"
	"github.com/snapctl/snapctl/runtime/clone"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/event"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
)

// CreateTemplate implements the API.
func (srv *Server) CreateTemplate(req *api.CreateTemplateRequest, stream grpc.ServerStreamingServer[api.Event]) error {
	r := clone.TemplateRequest{Name: req.GetName(), Snapshot: req.GetSnapshot(), Rules: req.GetRulesYaml()}
	if (req.GetApp() == "") == (req.GetSnapshot() == "") {
		return fmt.Errorf("%w: a template is made of an app or of a snapshot", errdefs.ErrInvalidArgument)
	}
	if req.GetApp() != "" {
		a, err := srv.rooms.Apps.Get(req.GetApp())
		if err != nil {
			return err
		}
		r.App = a
	}
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(req.GetTimeout()))
	defer cancel()
	var t *catalog.Template
	about := event.About{Template: req.GetName(), App: req.GetApp(), Snapshot: req.GetSnapshot()}
	ended, out, err := srv.tellSteps(stream, event.CreateTemplate, about, func(op *event.Operation) (out *engine.Outcome, err error) {
		r.Op = op
		t, out, err = srv.rooms.Clones.CreateTemplate(ctx, r)
		return out, err
	})
	if err != nil {
		return err
	}
	return sendResult(stream, ended, out, &api.Result{Template: srv.showTemplate(t)})
}

// ListTemplates implements the API.
func (srv *Server) ListTemplates(ctx context.Context, _ *api.ListRequest) (*api.ListTemplatesResponse, error) {
	all := srv.rooms.Templates.List()
	resp := &api.ListTemplatesResponse{}
	for _, t := range all {
		resp.Templates = append(resp.Templates, srv.showTemplate(t))
	}
	lookAtAll(len(all), func(i int) {
		resp.Templates[i].WouldNotStart = showObstacles(srv.rooms.Obstacles.SnapshotObstacles(ctx, all[i].Snapshot, snapshot.BySize))
	})
	return resp, nil
}

// ShowTemplate implements the API.
func (srv *Server) ShowTemplate(ctx context.Context, req *api.TemplateRequest) (*api.Template, error) {
	t, err := srv.rooms.Templates.Get(req.GetName())
	if err != nil {
		return nil, err
	}
	out := srv.showTemplate(t)
	out.WouldNotStart = showObstacles(srv.rooms.Obstacles.SnapshotObstacles(ctx, t.Snapshot, snapshot.BySize))
	return out, nil
}

// RemoveTemplate implements the API.
func (srv *Server) RemoveTemplate(ctx context.Context, req *api.TemplateRequest) (*api.RemoveResponse, error) {
	op := srv.rooms.Events.Begin(event.RemoveTemplate, event.About{Template: req.GetName()})
	err := srv.rooms.Clones.RemoveTemplate(ctx, req.GetName())
	op.End(err)
	if err != nil {
		return nil, err
	}
	return &api.RemoveResponse{}, nil
}

func (srv *Server) showTemplate(t *catalog.Template) *api.Template {
	out := &api.Template{
		Name: t.Name, Snapshot: t.Snapshot, CreatedAt: timestamppb.New(t.CreatedAt), RulesYaml: t.RulesText,
		Clones: srv.rooms.Clones.Of(t.Name), PoolSize: int32(srv.rooms.Templates.Ready(t)), PoolReady: int32(srv.rooms.Pools.CountReady(t)),
		NextNumber: int32(srv.rooms.Clones.NextNumber(t)),
	}
	if err := srv.rooms.Pools.Failed(t); err != nil {
		out.PoolError = err.Error()
	}
	for _, key := range slices.Sorted(func(yield func(string) bool) {
		for key := range t.Rules.Parameters {
			if !yield(key) {
				return
			}
		}
	}) {
		p := t.Rules.Parameters[key]
		shown := &api.Parameter{Key: key, Description: p.Description, Required: p.Required, Pattern: p.Pattern}
		if p.Default != nil {
			shown.DefaultText = string(*p.Default)
		}
		out.Parameters = append(out.Parameters, shown)
	}
	_, m, err := srv.rooms.Snapshots.Find(t.Snapshot)
	if err != nil {
		return out // the snapshot is damaged: cloning says how
	}
	s := showSnapshot(m)
	out.App, out.Network, out.InsideEndpoint, out.Args, out.Processes = s.App, s.Network, s.Endpoint, s.Args, s.Processes
	out.HostFilesBytes = s.HostFilesBytes + s.HostFilesSharedBytes
	out.MemoryBytes, out.StorageBytes = s.MemoryBytes+s.MemorySharedBytes, s.StorageBytes+s.StorageSharedBytes
	return out
}

// Clone implements the API.
func (srv *Server) Clone(req *api.CloneRequest, stream grpc.ServerStreamingServer[api.CloneEvent]) error {
	defer srv.rooms.Pools.BeginRequest()()
	t, err := srv.rooms.Templates.Get(req.GetTemplate())
	if err != nil {
		return err
	}
	r := clone.Request{
		Names: slices.Clone(req.GetNames()), Pattern: req.GetNamePattern(), Start: int(req.GetStart()), Least: int(req.GetLeast()),
		Set: req.GetSet(), KeepGoing: req.GetKeepGoing(), Pool: poolUses[req.GetPool()],
	}
	if req.GetStorage() == api.Storage_STORAGE_PRIVATE {
		r.Files = birth.PrivateFiles
	}
	if r.Policy, err = newPolicy(req, req.AcceptChangedFiles); err != nil {
		return err
	}
	for _, text := range req.GetEndpoints() {
		addr, err := parseEndpoint(text)
		if err != nil {
			return fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		if slices.Contains(r.Endpoints, addr) {
			return fmt.Errorf("%w: endpoint %s twice", errdefs.ErrInvalidArgument, addr)
		}
		r.Endpoints = append(r.Endpoints, addr)
	}
	if err := checkCounts(req, &r); err != nil {
		return err
	}
	free, err := srv.rooms.Clones.ChooseNames(t, &r)
	if err != nil {
		return err
	}
	defer free()
	ctx, cancel := context.WithTimeout(stream.Context(), timeoutOf(req.GetTimeout()))
	defer cancel()
	report := &cloneReport{srv: srv, stream: stream, total: int32(len(r.Names))}
	op := srv.rooms.Events.Begin(event.CloneRequest, event.About{Template: t.Name})
	r.Op, r.Done = op.ID(), report.done
	// A hand-out is over before anybody could read its steps.
	made := event.Filter{Operation: op.ID(), Types: []event.Type{event.Step}, Kinds: []event.Kind{event.Clone}}
	told := srv.rooms.Events.Listen(ctx, event.Options{Filter: made}, func(e event.Event) { report.step(e.App, e.Step) })
	err = srv.rooms.Clones.Make(ctx, t, r)
	told()
	ended := op.End(err)
	if err != nil {
		return err
	}
	return stream.Send(&api.CloneEvent{Event: &api.CloneEvent_Summary{Summary: &api.CloneSummary{
		Made: report.made, Failed: report.failed, TotalUs: ended.Took.Microseconds(),
	}}})
}

var poolUses = map[api.PoolUse]clone.PoolUse{
	api.PoolUse_POOL_USE_ONLY: clone.OnlyPool, api.PoolUse_POOL_USE_NEVER: clone.NeverPool,
}

// checkCounts makes sure that there are as many names and endpoints as clones.
func checkCounts(req *api.CloneRequest, r *clone.Request) error {
	names, endpoints := len(req.GetNames()), len(r.Endpoints)
	r.Count = cmp.Or(int(req.GetCount()), names, endpoints, 1)
	switch {
	case r.Count < 1 || r.Count > template.MaxNumber:
		return fmt.Errorf("%w: %d clones: want 1 to %d", errdefs.ErrInvalidArgument, r.Count, template.MaxNumber)
	case names > 0 && names != r.Count:
		return fmt.Errorf("%w: %d names for %d clones", errdefs.ErrInvalidArgument, names, r.Count)
	case endpoints > 0 && endpoints != r.Count:
		return fmt.Errorf("%w: %d endpoints for %d clones", errdefs.ErrInvalidArgument, endpoints, r.Count)
	}
	return nil
}

// cloneReport tells a client how its clones come to be.
type cloneReport struct {
	srv    *Server
	stream grpc.ServerStreamingServer[api.CloneEvent]
	total  int32

	mu           sync.Mutex // also guards the stream
	made, failed int32
}

func (r *cloneReport) step(name, step string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	// A client that has hung up is noticed by the stream's context.
	_ = r.stream.Send(&api.CloneEvent{Event: &api.CloneEvent_Progress{Progress: &api.CloneProgress{
		Name: name, Step: step, Done: r.made + r.failed, Total: r.total,
	}}})
}

func (r *cloneReport) done(out clone.Outcome) {
	err := out.Ended.Err
	res := &api.CloneResult{Name: out.Name, TotalUs: out.Ended.Took.Microseconds(), StepsUs: stepsMicroseconds(&out.Ended), FromPool: out.Pooled}
	if err != nil {
		s, _ := status.FromError(Status(err))
		res.Code, res.Error = int32(s.Code()), s.Message()
		if h := Hint(err); h != "" {
			res.Hints = []string{h}
		}
	} else {
		res.App = r.srv.show(out.App)
		res.Notes = res.App.GetNotes()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err != nil {
		r.failed++
	} else {
		r.made++
	}
	if errors.Is(err, context.Canceled) {
		return // it was not its own fault
	}
	_ = r.stream.Send(&api.CloneEvent{Event: &api.CloneEvent_Result{Result: res}})
}

// SetPool implements the API.
func (srv *Server) SetPool(ctx context.Context, req *api.SetPoolRequest) (*api.Template, error) {
	const most = 1000
	size := int(req.GetSize())
	if size < 0 || size > most {
		return nil, fmt.Errorf("%w: a pool of %d clones: want 0 to %d", errdefs.ErrInvalidArgument, size, most)
	}
	t, err := srv.rooms.Templates.Get(req.GetTemplate())
	if err != nil {
		return nil, err
	}
	if err := srv.rooms.Pools.SetPool(ctx, t, size); err != nil {
		return nil, err
	}
	return srv.showTemplate(t), nil
}
