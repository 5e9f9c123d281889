package clitest

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/template"
)

func (f *Daemon) findTemplate(name string) (*api.Template, error) {
	for _, t := range f.Templates {
		if t.GetName() == name {
			return t, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "template %s: not found", name)
}

func (f server) CreateTemplate(req *api.CreateTemplateRequest, out grpc.ServerStreamingServer[api.Event]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, err := f.findTemplate(req.GetName()); err == nil {
		return status.Errorf(codes.AlreadyExists, "template %s: already exists", req.GetName())
	}
	rules, err := template.Parse([]byte(req.GetRulesYaml()))
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	t := &api.Template{
		Name: req.GetName(), Snapshot: req.GetSnapshot(), CreatedAt: timestamppb.New(Began), RulesYaml: req.GetRulesYaml(),
		MemoryBytes: 12 << 20, StorageBytes: 1 << 10, Processes: 1, Network: "default",
	}
	r := &api.Result{Template: t, TotalUs: 70_000}
	if req.GetApp() != "" {
		a, err := f.find(req.GetApp())
		if err != nil {
			return err
		}
		t.App, t.Snapshot, t.InsideEndpoint, t.Args = a.GetName(), req.GetName()+"-template", a.GetEndpoint(), a.GetArgs()
		r.FrozenUs = 40_000
	} else {
		s, err := f.findSnapshot(req.GetSnapshot())
		if err != nil {
			return err
		}
		t.App, t.InsideEndpoint, t.Args = s.GetApp(), s.GetEndpoint(), s.GetArgs()
	}
	for _, key := range slices.Sorted(maps.Keys(rules.Parameters)) {
		p := rules.Parameters[key]
		one := &api.Parameter{Key: key, Description: p.Description, Required: p.Required, Pattern: p.Pattern}
		if p.Default != nil {
			one.DefaultText = string(*p.Default)
		}
		t.Parameters = append(t.Parameters, one)
	}
	f.Templates = append(f.Templates, t)
	return tell(out, r, &api.Progress{Step: "convert memory", DoneBytes: 3 << 20, TotalBytes: 12 << 20})
}

func (f server) ListTemplates(context.Context, *api.ListRequest) (*api.ListTemplatesResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return &api.ListTemplatesResponse{Templates: f.Templates}, nil
}

func (f server) ShowTemplate(_ context.Context, req *api.TemplateRequest) (*api.Template, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.findTemplate(req.GetName())
}

func (f server) RemoveTemplate(ctx context.Context, req *api.TemplateRequest) (*api.RemoveResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, err := f.findTemplate(req.GetName())
	if err != nil {
		return nil, err
	}
	if n := len(t.GetClones()); n > 0 {
		hint(ctx, "remove them first")
		return nil, status.Errorf(codes.FailedPrecondition, "template %s has clones: %s", t.GetName(), strings.Join(t.GetClones(), ", "))
	}
	f.Templates = slices.DeleteFunc(f.Templates, func(b *api.Template) bool { return t == b })
	return &api.RemoveResponse{}, nil
}

// SetPool has two clones stand ready at once.
func (f server) SetPool(_ context.Context, req *api.SetPoolRequest) (*api.Template, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	t, err := f.findTemplate(req.GetTemplate())
	if err != nil {
		return nil, err
	}
	t.PoolSize, t.PoolReady = req.GetSize(), min(2, req.GetSize())
	return t, nil
}

// Clone can't make what is number 2 of a template called flaky, nor any of one
// called broken. Each clone has a connection that is reset, and one of a
// template called torn an unsupported socket. After the first one of a template
// called gone the daemon is lost.
func (f server) Clone(req *api.CloneRequest, out grpc.ServerStreamingServer[api.CloneEvent]) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.LastClone = req
	t, err := f.findTemplate(req.GetTemplate())
	if err != nil {
		return err
	}
	if req.GetHost() != "" {
		if _, err := f.findHost(req.GetHost()); err != nil {
			return err
		}
	}
	for key := range req.GetSet() {
		if !slices.ContainsFunc(t.GetParameters(), func(p *api.Parameter) bool { return p.GetKey() == key }) {
			return status.Errorf(codes.InvalidArgument, "there is no parameter %s", key)
		}
	}
	names := req.GetNames()
	if len(names) == 0 {
		pattern := req.GetNamePattern()
		if pattern == "" {
			pattern = t.GetName() + "-{n}"
		}
		p, err := template.ParseNamePattern(pattern)
		if err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if names, err = p.Expand(max(int(req.GetStart()), p.Next(t.GetClones())), int(req.GetCount()), nil); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
	}
	made := int32(0)
	send := func(e *api.CloneEvent) error { return out.Send(e) }
	for i, name := range names {
		step := &api.CloneProgress{Name: name, Step: "restore processes", Done: int32(i), Total: int32(len(names))}
		if err := send(&api.CloneEvent{Event: &api.CloneEvent_Progress{Progress: step}}); err != nil {
			return err
		}
		r := &api.CloneResult{
			Name: name, TotalUs: 12_000, FromPool: req.GetPool() != api.PoolUse_POOL_USE_NEVER && t.GetPoolReady() > 0,
			Sockets: []*api.SocketOutcome{{Socket: "tcp 10.77.0.7:80 <- 10.77.0.1:5123", Outcome: "reset", Reason: "the rules say so"}},
		}
		if r.Host = req.GetHost(); req.GetSpread() { // to two hosts, in turn
			r.Host = []string{"here", "there"}[i%2]
		}
		if t.GetName() == "torn" {
			r.Sockets = append(r.Sockets, &api.SocketOutcome{Socket: "mptcp", Outcome: "unsupported"})
		}
		if t.GetName() == "broken" || t.GetName() == "flaky" && strings.HasSuffix(name, "2") {
			r.Code, r.Error, r.Hints = int32(codes.ResourceExhausted), "no memory", []string{"make room"}
		} else {
			r.App = &api.App{Name: name, Status: api.Status_STATUS_RUNNING, Endpoint: fmt.Sprintf("10.77.0.%d", 20+len(t.GetClones())), Template: t.GetName(), Number: int32(i + 1), Pid: 5000, InsideEndpoint: t.GetInsideEndpoint(), Generation: fmt.Sprintf("g%d", i+1)}
			if len(req.GetEndpoints()) > 0 {
				r.App.Endpoint = req.GetEndpoints()[i]
			}
			t.Clones = append(t.Clones, name)
			f.Apps = append(f.Apps, r.GetApp())
			made++
		}
		if err := send(&api.CloneEvent{Event: &api.CloneEvent_Result{Result: r}}); err != nil {
			return err
		}
		if t.GetName() == "gone" {
			return status.Error(codes.Unavailable, "connection lost")
		}
		if r.GetError() != "" && !req.GetKeepGoing() && !req.GetSpread() {
			t.Clones, f.Apps = t.Clones[:len(t.Clones)-int(made)], f.Apps[:len(f.Apps)-int(made)]
			out.SetTrailer(metadata.Pairs("snapctl-hint", "make room"))
			return status.Error(codes.ResourceExhausted, "no memory")
		}
	}
	summary := &api.CloneSummary{Made: made, Failed: int32(len(names)) - made, TotalUs: 30_000}
	if req.GetSpread() {
		summary.Notes = []string{"host gone makes none: it does not answer"}
	}
	return send(&api.CloneEvent{Event: &api.CloneEvent_Summary{Summary: summary}})
}
