package daemon

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem/hold"
)

// rpcError gives an error the gRPC code that tells a client what to do.
func rpcError(err error) error {
	if err == nil {
		return nil
	}
	var step *StepError
	code := codes.Unknown
	switch {
	case errors.Is(err, errBusy):
		code = codes.Aborted
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errors.As(err, &step):
		code = codes.FailedPrecondition
	case errors.Is(err, hold.ErrUnsupported):
		code = codes.Unimplemented
	case errors.Is(err, snapshot.ErrExists):
		code = codes.AlreadyExists
	case errors.Is(err, snapshot.ErrDamaged), errors.Is(err, snapshot.ErrInvalid):
		code = codes.DataLoss
	case errdefs.IsNotFound(err), errdefs.IsAlreadyExists(err), errdefs.IsInvalidArgument(err), errdefs.IsFailedPrecondition(err):
		return errgrpc.ToGRPC(err)
	}
	return status.Error(code, err.Error())
}
