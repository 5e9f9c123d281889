package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/runtime/clone"
	"github.com/snapctl/snapctl/runtime/doctor"
	"github.com/snapctl/snapctl/runtime/server/moves"
	"github.com/snapctl/snapctl/runtime/server/transfers"
	"github.com/snapctl/snapctl/runtime/server/upkeep"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/criu"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/holder"
	"github.com/snapctl/snapctl/vem/membership"
)

// hintTrailer carries what the user can do about an error.
const hintTrailer = "snapctl-hint"

// interceptors give every error that a request returns its gRPC code and, where
// there is one, a hint.
func interceptors() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
			resp, err := handle(ctx, req)
			if h := Hint(err); h != "" {
				_ = grpc.SetTrailer(ctx, metadata.Pairs(hintTrailer, h)) // fails only outside of a request
			}
			return resp, Status(err)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
			err := handle(srv, stream)
			if h := Hint(err); h != "" {
				stream.SetTrailer(metadata.Pairs(hintTrailer, h))
			}
			return Status(err)
		}),
	}
}

// Status gives an error the gRPC code that tells a client what to do.
func Status(err error) error {
	if err == nil {
		return nil
	}
	code := codes.Unknown
	var notNow *app.StatusError
	switch {
	case errors.Is(err, app.ErrBusy):
		code = codes.Aborted
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.As(err, &notNow):
		code = codes.FailedPrecondition
	case errors.Is(err, holder.ErrDown):
		code = codes.Unavailable
	case errors.Is(err, hold.ErrUnsupported), errors.Is(err, preflight.ErrUnsupported):
		code = codes.Unimplemented
	case errors.Is(err, restore.ErrHostFile):
		code = codes.FailedPrecondition
	case errors.Is(err, snapshot.ErrExists):
		code = codes.AlreadyExists
	case moves.Code(err) != codes.OK:
		code = moves.Code(err)
	case transfers.Code(err) != codes.OK:
		code = transfers.Code(err)
	case upkeep.Code(err) != codes.OK:
		code = upkeep.Code(err)
	case errors.Is(err, tree.ErrDamaged), errors.Is(err, snapshot.ErrInvalid):
		code = codes.DataLoss
	case errdefs.IsNotFound(err), errdefs.IsAlreadyExists(err), errdefs.IsInvalidArgument(err), errdefs.IsFailedPrecondition(err), errdefs.IsAborted(err):
		return errgrpc.ToGRPC(err)
	default:
		if s, ok := status.FromError(err); ok {
			return s.Err() // from the stream itself
		}
	}
	return status.Error(code, criu.Explain(err))
}

// Hint says what can be done about an error, or "".
func Hint(err error) string {
	var (
		notNow *app.StatusError
		lost   *vem.LostError
		busy   *checkpoint.SessionError
		host   *membership.Error
		c      *criu.Error
	)
	switch {
	case err == nil:
		return ""
	case moves.Hint(err) != "":
		return moves.Hint(err)
	case transfers.Hint(err) != "":
		return transfers.Hint(err)
	case errors.Is(err, unix.ENOSPC):
		return "free space on the file system of the state directory, and try again"
	case errors.As(err, &host):
		return host.Remedy
	case upkeep.Hint(err) != "":
		return upkeep.Hint(err)
	case errors.Is(err, app.ErrBusy):
		return "wait for the other operation; snapctl show tells what it is"
	case errors.Is(err, clone.ErrNoneReady):
		return "snapctl template pool --size has more stand ready; without --pool only those that are missing are made"
	case errors.As(err, &notNow):
		return statusHint(notNow)
	case errors.As(err, &busy):
		return "let it end, and try again; hibernate and snapshot end it with --end-sessions"
	case errors.As(err, &lost):
		return "wake it by command: snapctl wake " + lost.App
	case errors.Is(err, holder.ErrDown):
		return "nothing is lost as long as this snapctld runs, and it goes on trying: snapctl doctor tells what is in the way"
	case errors.Is(err, restore.ErrHostFile):
		return "nothing is lost: put the file back, and try again; or have missing files below binds made, empty, with --accept-changed-files"
	case errors.Is(err, tree.ErrDamaged), errors.Is(err, snapshot.ErrInvalid):
		return "it can't be used: take it from a backup, or remove it"
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, context.Canceled):
		return "" // what CRIU says then is that it was ended
	case errors.As(err, &c) && slices.ContainsFunc(c.Lines, func(line string) bool { return strings.Contains(line, "Can't get rlimit") }):
		return doctor.LimitsRemedy
	case errors.As(err, &c) && c.LogFile != "":
		return fmt.Sprintf("CRIU's log is %s; run snapctld with --criu-log-level 4 for more, and snapctl doctor", c.LogFile)
	default:
		return ""
	}
}

func statusHint(e *app.StatusError) string {
	switch e.Status { //nolint:exhaustive // the others last for a moment
	case app.Held:
		return "wake it first: snapctl wake " + e.App
	case app.Stopped:
		return "it has ended: snapctl rm " + e.App + ", and run it again"
	default:
		return ""
	}
}
