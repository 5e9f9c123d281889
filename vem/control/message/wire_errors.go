package message

import (
	"context"
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/limit"
	"github.com/snapctl/snapctl/vem/control/once"
)

// BusyError is that a host has no room for a call at the moment; it is repeated.
type BusyError struct {
	RefusedError

	After time.Duration // it may help to try again after so long
}

// ToStatus returns what a caller is told of an error: a gRPC status with a Failure.
func ToStatus(err error, self Self) error {
	if err == nil {
		return nil
	}
	var (
		notOwner *NotOwnerError
		notFound *NotFoundError
		version  *VersionError
		refused  *RefusedError
		busy     *limit.BusyError
		invalid  *InvalidError
	)
	f := &pb.Failure{By: self.Host}
	code := codes.FailedPrecondition
	switch {
	case errors.As(err, &notOwner):
		f.What = &pb.Failure_NotOwner_{NotOwner: &pb.Failure_NotOwner{
			Network: notOwner.Network, Address: ToAddr(notOwner.Address), Owner: notOwner.Owner, Epoch: notOwner.Epoch,
		}}
	case errors.As(err, &notFound):
		code = codes.NotFound
		f.What = &pb.Failure_NotFound_{NotFound: &pb.Failure_NotFound{Network: notFound.Network, Address: ToAddr(notFound.Address)}}
	case errors.As(err, &version):
		f.What = &pb.Failure_Version_{Version: &pb.Failure_Version{Protocols: ToRange(self.Protocols), Version: self.Version}}
	case errors.As(err, &busy):
		code = codes.ResourceExhausted
		f.What = &pb.Failure_Busy_{Busy: &pb.Failure_Busy{Why: OneLine(busy.Why), RetryAfter: durationpb.New(busy.RetryAfter)}}
	case errors.As(err, &refused):
		code = codes.PermissionDenied
		f.What = refusal(refused.Why, refused.Hint)
	case errors.As(err, &invalid):
		code = codes.InvalidArgument
		f.What = refusal("invalid request: "+err.Error(), "upgrade snapctl on the older of both hosts")
	case errors.Is(err, once.ErrOther):
		code = codes.InvalidArgument
		f.What = refusal(err.Error(), "")
	case errors.Is(err, context.DeadlineExceeded):
		return status.Error(codes.DeadlineExceeded, "the host did not do it in time")
	case errors.Is(err, context.Canceled):
		return status.Error(codes.Canceled, "the call was given up")
	default:
		code = codes.Unknown
		f.What = refusal(err.Error(), "")
	}
	s, detailErr := status.New(code, OneLine(err.Error())).WithDetails(f)
	if detailErr != nil {
		return status.Error(code, OneLine(err.Error())) // what can't be marshalled is text that is no UTF-8, which OneLine has mended
	}
	return s.Err()
}

func refusal(why, remedy string) *pb.Failure_Refused_ {
	return &pb.Failure_Refused_{Refused: &pb.Failure_Refused{Why: OneLine(why), Remedy: OneLine(remedy)}}
}

// OneLine makes any text one that may be said on the control channel.
func OneLine(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) <= maxText {
		return s
	}
	s = s[:maxText-len("...")]
	for !utf8.ValidString(s) {
		s = s[:len(s)-1]
	}
	return s + "..."
}

// FromStatus returns the error that a host answered with, or nil if the status has none: then it
// comes from the connection. It is whom this host asked, as its certificate says.
func FromStatus(s *status.Status, host string, self Self) error {
	for _, d := range s.Details() {
		if f, ok := d.(*pb.Failure); ok {
			if err := fromFailure(f, host, self); err != nil {
				return err
			}
		}
	}
	switch s.Code() { //nolint:exhaustive // all others are the connection's
	case codes.Unimplemented:
		return &RefusedError{By: host, Why: "it does not know this call", Hint: "upgrade snapctl on " + host}
	case codes.InvalidArgument, codes.Internal, codes.Unknown, codes.PermissionDenied, codes.FailedPrecondition, codes.NotFound, codes.OutOfRange, codes.DataLoss, codes.Unauthenticated:
		return &RefusedError{By: host, Why: OneLine(s.Message())}
	default:
		return nil
	}
}

func fromFailure(f *pb.Failure, host string, self Self) error {
	switch what := f.GetWhat().(type) {
	case *pb.Failure_NotOwner_:
		e := &NotOwnerError{By: host, Network: what.NotOwner.GetNetwork(), Address: fromAddr(what.NotOwner.GetAddress()), Owner: what.NotOwner.GetOwner(), Epoch: what.NotOwner.GetEpoch()}
		var c Checks
		c.Name("network", e.Network)
		c.Unicast("address", e.Address)
		if e.Owner != "" {
			c.Host("owner", e.Owner)
			c.positive("epoch", e.Epoch)
		}
		if c.Err == nil {
			return e
		}
	case *pb.Failure_NotFound_:
		e := &NotFoundError{By: host, Network: what.NotFound.GetNetwork(), Address: fromAddr(what.NotFound.GetAddress())}
		var c Checks
		c.Name("network", e.Network)
		c.Unicast("address", e.Address)
		if c.Err == nil {
			return e
		}
	case *pb.Failure_Version_:
		return &VersionError{Host: host, Ours: self.Protocols, OurVersion: self.Version, Theirs: fromRange(what.Version.GetProtocols()), TheirVersion: OneLine(what.Version.GetVersion())}
	case *pb.Failure_Refused_:
		return &RefusedError{By: host, Why: OneLine(what.Refused.GetWhy()), Hint: OneLine(what.Refused.GetRemedy())}
	case *pb.Failure_Busy_:
		after := min(max(what.Busy.GetRetryAfter().AsDuration(), time.Millisecond), time.Second)
		return &BusyError{RefusedError: RefusedError{By: host, Why: OneLine(what.Busy.GetWhy()), Hint: "try again later"}, After: after}
	}
	return nil // of a newer snapctl: the code and the text tell enough
}
