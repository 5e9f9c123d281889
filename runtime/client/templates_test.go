package client_test

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func (s *server) Clone(_ *api.CloneRequest, out grpc.ServerStreamingServer[api.CloneEvent]) error {
	return s.clone(out)
}

func TestClone(t *testing.T) {
	events := []*api.CloneEvent{
		{Event: &api.CloneEvent_Progress{Progress: &api.CloneProgress{Name: "web-1", Step: "restore"}}},
		{Event: &api.CloneEvent_Result{Result: &api.CloneResult{Name: "web-1", App: &api.App{Name: "web-1"}}}},
		{Event: &api.CloneEvent_Result{Result: &api.CloneResult{Name: "web-2", Code: int32(codes.ResourceExhausted), Error: "no memory"}}},
		{Event: &api.CloneEvent_Summary{Summary: &api.CloneSummary{Made: 1, Failed: 1}}},
	}
	for name, test := range map[string]struct {
		send int   // so many of the events
		end  error // then this
		want error
	}{
		"whole":      {4, nil, nil},
		"no summary": {3, nil, client.ErrNoResult},
		"undone":     {3, status.Error(codes.NotFound, "no luck"), errdefs.ErrNotFound},
		"refused":    {0, status.Error(codes.InvalidArgument, "no luck"), errdefs.ErrInvalidArgument},
	} {
		t.Run(name, func(t *testing.T) {
			c := start(t, &server{clone: func(out grpc.ServerStreamingServer[api.CloneEvent]) error {
				for _, e := range events[:test.send] {
					if err := out.Send(e); err != nil {
						return err
					}
				}
				return test.end
			}})
			for _, watched := range []bool{true, false} {
				var told []string
				var watch client.CloneWatch
				if watched {
					watch.Progress = func(p *api.CloneProgress) { told = append(told, p.GetStep()) }
					watch.Result = func(r *api.CloneResult) { told = append(told, r.GetName()) }
				}
				summary, err := c.Clone(t.Context(), &api.CloneRequest{}, watch)
				if test.want != nil {
					qt.Check(t, qt.ErrorIs(err, test.want))
				} else {
					qt.Assert(t, qt.IsNil(err))
					qt.Check(t, qt.Equals(summary.GetMade(), 1))
				}
				if watched && test.send > 0 {
					qt.Check(t, qt.DeepEquals(told, []string{"restore", "web-1", "web-2"}))
				}
			}
		})
	}
}

func TestCloneError(t *testing.T) {
	qt.Assert(t, qt.IsNil(client.CloneError(&api.CloneResult{App: &api.App{}})))
	err := client.CloneError(&api.CloneResult{Code: int32(codes.AlreadyExists), Error: "app web-1: already exists", Hints: []string{"a", "b"}})
	qt.Check(t, qt.ErrorIs(err, errdefs.ErrAlreadyExists))
	qt.Check(t, qt.Equals(err.Error(), "app web-1: already exists"))
	qt.Check(t, qt.DeepEquals(client.Hints(err), []string{"a", "b"}))
	qt.Check(t, qt.ErrorIs(client.CloneError(&api.CloneResult{Error: "no luck"}), errdefs.ErrUnknown))
}
