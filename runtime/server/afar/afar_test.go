package afar

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// What another host has answered keeps its code and its hints, and says whose it is.
func TestErrors(t *testing.T) {
	qt.Check(t, qt.IsNil(answered("beta", nil, nil)))
	err := answered("beta", status.Error(codes.AlreadyExists, "app web: already exists"), metadata.Pairs(hintTrailer, "remove it"))
	qt.Check(t, qt.ErrorMatches(err, "host beta: app web: already exists"))
	s, ok := status.FromError(err)
	qt.Assert(t, qt.IsTrue(ok))
	qt.Check(t, qt.Equals(s.Code(), codes.AlreadyExists))
	qt.Check(t, qt.Equals(s.Message(), "host beta: app web: already exists"))
	e, _ := errors.AsType[*Error](err)
	qt.Check(t, qt.DeepEquals(e.Hints, []string{"remove it"}))

	e, _ = errors.AsType[*Error](answered("beta", status.Error(codes.Unavailable, "it has ended"), nil))
	qt.Check(t, qt.DeepEquals(e.Hints, []string{"whether it is done there is not known: look on host beta"}))
}

// The timeout of a request ends what this host does, until another one has the rest of it.
func TestPatience(t *testing.T) {
	ctx, p := begin(t.Context(), durationpb.New(time.Millisecond))
	defer p.end()
	<-ctx.Done()
	qt.Check(t, qt.ErrorIs(p.why(context.Canceled), context.DeadlineExceeded))

	ctx, p = begin(t.Context(), durationpb.New(time.Hour))
	defer p.end()
	rest := p.rest().AsDuration()
	qt.Check(t, qt.IsTrue(rest > 50*time.Minute && rest <= time.Hour))
	qt.Check(t, qt.IsNil(ctx.Err()))
	qt.Check(t, qt.Equals(p.why(context.Canceled), context.Canceled))

	_, p = begin(t.Context(), nil)
	defer p.end()
	qt.Check(t, qt.IsNil(p.rest()))
	qt.Check(t, qt.Equals(p.why(context.Canceled), context.Canceled))
}
