package upkeep

import (
	"errors"
	"io/fs"

	"google.golang.org/grpc/codes"

	"github.com/snapctl/snapctl/vem/directory"
	"github.com/snapctl/snapctl/vem/directory/member"
)

// Code is gRPC's code of an error of the directory, [codes.OK] of any other one.
func Code(err error) codes.Code {
	switch {
	case errors.Is(err, member.ErrQuorum), errors.Is(err, directory.ErrFull):
		return codes.FailedPrecondition
	case errors.Is(err, member.ErrDigest):
		return codes.DataLoss
	case errors.Is(err, fs.ErrExist):
		return codes.AlreadyExists
	}
	return codes.OK
}

// Hint is what to do about an error of the directory; empty for any other one.
func Hint(err error) string {
	switch {
	case errors.Is(err, directory.ErrFull):
		return "snapctl host directory defragment makes room of what is not needed any more; snapctl host directory status tells how much is in use"
	case errors.Is(err, member.ErrQuorum):
		return "start the other members of the directory first: snapctl host directory status tells which of them do not answer"
	case errors.Is(err, member.ErrDigest):
		return "take another backup"
	case errors.Is(err, directory.ErrUnavailable):
		return "what works goes on meanwhile: snapctl host directory status tells which members of the directory answer"
	}
	return ""
}
