// Package transfers answers the API's requests to take snapshots to other hosts, and to get them from there.
package transfers

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/runtime/courier"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
)

// Courier takes and gets snapshots, as package courier does it.
type Courier interface {
	Push(ctx context.Context, r courier.Request) (courier.Result, error)
	Pull(ctx context.Context, r courier.Request) (courier.Result, error)
}

// Transfers answers the requests.
type Transfers struct{ Courier Courier }

// PushSnapshot implements the API.
func (t *Transfers) PushSnapshot(req *api.TransferRequest, stream grpc.ServerStreamingServer[api.TransferEvent]) error {
	return transfer(req, stream, t.Courier.Push)
}

// PushTemplate implements the API.
func (t *Transfers) PushTemplate(req *api.TransferRequest, stream grpc.ServerStreamingServer[api.TransferEvent]) error {
	return transfer(req, stream, func(ctx context.Context, r courier.Request) (courier.Result, error) {
		r.Template, r.Snapshot = r.Snapshot, ""
		return t.Courier.Push(ctx, r)
	})
}

// PullSnapshot implements the API.
func (t *Transfers) PullSnapshot(req *api.TransferRequest, stream grpc.ServerStreamingServer[api.TransferEvent]) error {
	return transfer(req, stream, t.Courier.Pull)
}

func transfer(req *api.TransferRequest, stream grpc.ServerStreamingServer[api.TransferEvent], do func(context.Context, courier.Request) (courier.Result, error)) error {
	began := time.Now()
	r, err := do(stream.Context(), courier.Request{
		Snapshot: req.GetSnapshot(), Host: req.GetHost(), As: req.GetAs(), Bandwidth: req.GetBandwidthBytes(),
		Progress: func(p cargo.Progress) {
			// A client that has hung up is noticed by the stream's context.
			_ = stream.Send(&api.TransferEvent{Event: &api.TransferEvent_Progress{Progress: Show(p)}})
		},
	})
	if err != nil {
		return err
	}
	return stream.Send(&api.TransferEvent{Event: &api.TransferEvent_Result{Result: &api.TransferResult{
		Snapshot: r.Name, Host: req.GetHost(), Total: Show(r.Progress), TookUs: time.Since(began).Microseconds(), Notes: r.Notes,
	}}})
}

// Show is how far a transfer is, as a message.
func Show(p cargo.Progress) *api.TransferProgress {
	return &api.TransferProgress{
		SentBytes: p.SentBytes, DoneBytes: p.DoneBytes, TotalBytes: p.TotalBytes, SavedBytes: p.SavedBytes,
		Files: int32(p.Files), TotalFiles: int32(p.TotalFiles), //nolint:gosec // at most 1 << 30, see package cargo
	}
}

// Code is gRPC's code of an error of a transfer, [codes.OK] of any other one.
func Code(err error) codes.Code {
	_, space := errors.AsType[*cargo.SpaceError](err)
	_, unreachable := errors.AsType[*control.UnreachableError](err)
	_, refused := errors.AsType[*message.RefusedError](err)
	switch {
	case refused:
		return codes.FailedPrecondition
	case space:
		return codes.ResourceExhausted
	case errors.Is(err, cargo.ErrUnknown), errors.Is(err, cargo.ErrCut), unreachable:
		return codes.Unknown
	}
	return codes.OK
}

// Hint is what to do about an error of a transfer; empty for any other one.
func Hint(err error) string {
	said, remote := errors.AsType[*cargo.RemoteError](err)
	if space, ok := errors.AsType[*cargo.SpaceError](err); ok {
		if remote {
			return fmt.Sprintf("host %s: %s", said.Host, space.Remedy())
		}
		return space.Remedy()
	}
	unreachable, ok := errors.AsType[*control.UnreachableError](err)
	taken, isTaken := errors.AsType[*courier.TakenError](err)
	busy, isBusy := errors.AsType[*courier.BusyError](err)
	refused, isRefused := errors.AsType[*message.RefusedError](err)
	switch {
	case isRefused:
		return refused.Hint
	case isTaken:
		return taken.Remedy()
	case isBusy:
		return busy.Remedy()
	case errors.Is(err, cargo.ErrUnknown):
		return "look for it there by `snapctl snapshots`: it is there whole, or not at all"
	case errors.Is(err, cargo.ErrCut):
		return "nothing is left of it: try again"
	case ok:
		return strings.TrimSuffix("nothing is left of it: "+unreachable.Remedy(), ": ")
	case remote && (errors.Is(err, tree.ErrDamaged) || errors.Is(err, memory.ErrDamaged)):
		return "nothing was kept of it: try again, and if it is the same again the snapshot is damaged where it is"
	}
	return ""
}
