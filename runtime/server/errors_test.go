package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/go-quicktest/qt"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/clone"
	"github.com/snapctl/snapctl/runtime/engine"
	"github.com/snapctl/snapctl/runtime/restorable"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/hold"
	"github.com/snapctl/snapctl/vem/holder"
)

func TestLostError(t *testing.T) {
	err := &vem.LostError{App: "cache", Reason: vem.LostByEnd}
	qt.Assert(t, qt.ErrorMatches(err, "the sockets of app cache are lost: snapctld and its holder both ended meanwhile: .*"))
	qt.Assert(t, qt.Equals(Hint(err), "wake it by command: snapctl wake cache"))
	a := &engine.App{App: app.New(t.TempDir(), "", app.Record{})}
	a.Note(err)
	qt.Assert(t, qt.Equals(Hint(a.Noted()), Hint(err)))
}

// TestErrorsOfRequests proves that clients learn by a code what kind of error it is, and by a
// hint what to do.
func TestErrorsOfRequests(t *testing.T) {
	for _, test := range []struct {
		err  error
		code codes.Code
		hint string // how it begins
	}{
		{app.ErrBusy, codes.Aborted, "wait for the other operation"},
		{context.DeadlineExceeded, codes.DeadlineExceeded, ""},
		{context.Canceled, codes.Canceled, ""},
		{&app.StatusError{App: "cache", Status: app.Held, Done: "hibernated"}, codes.FailedPrecondition, "wake it first: snapctl wake cache"},
		{&app.StatusError{App: "cache", Status: app.Stopped, Done: "hibernated"}, codes.FailedPrecondition, "it has ended: snapctl rm cache"},
		{&app.StatusError{App: "cache", Status: app.Creating, Done: "hibernated"}, codes.FailedPrecondition, ""},
		{holder.ErrDown, codes.Unavailable, "nothing is lost as long as this snapctld runs"},
		{hold.ErrUnsupported, codes.Unimplemented, ""},
		{preflight.ErrUnsupported, codes.Unimplemented, ""},
		{restore.ErrHostFile, codes.FailedPrecondition, "nothing is lost: put the file back"},
		{snapshot.ErrExists, codes.AlreadyExists, ""},
		{tree.ErrDamaged, codes.DataLoss, "it can't be used"},
		{errdefs.ErrNotFound, codes.NotFound, ""},
		{errdefs.ErrInvalidArgument, codes.InvalidArgument, ""},
		{app.Refusef("app cache is held: stop it first"), codes.FailedPrecondition, ""},
		{clone.ErrNoneReady, codes.Unknown, "snapctl template pool --size"},
		{unix.ENOSPC, codes.Unknown, "free space on the file system"},
		{io.ErrUnexpectedEOF, codes.Unknown, ""},
		{status.Error(codes.ResourceExhausted, "message too large"), codes.ResourceExhausted, ""},
	} {
		err := fmt.Errorf("hibernate cache: %w", test.err)
		s, ok := status.FromError(Status(err))
		qt.Check(t, qt.IsTrue(ok))
		qt.Check(t, qt.Equals(s.Code(), test.code), qt.Commentf("%v", err))
		h := Hint(err)
		qt.Check(t, qt.IsTrue(h == test.hint || test.hint != "" && len(h) > len(test.hint) && h[:len(test.hint)] == test.hint), qt.Commentf("%v: %q", err, h))
	}
	qt.Check(t, qt.IsNil(Status(nil)))
	qt.Check(t, qt.Equals(Hint(nil), ""))
}

func TestObstaclesAreShown(t *testing.T) {
	shown := showObstacles(restorable.ObstaclesOf(
		nil, context.Canceled,
		&restore.FileError{Path: "/srv/data", Reason: "it is gone", Remedy: "put it back"},
		fmt.Errorf("image: %w", tree.ErrDamaged), errors.New("no idea"),
	))
	qt.Assert(t, qt.HasLen(shown, 3))
	qt.Check(t, qt.Equals(shown[0].GetPath(), "/srv/data"))
	qt.Check(t, qt.Equals(obstacleText(shown[0]), "it is gone; put it back"))
	qt.Check(t, qt.Equals(shown[1].GetRemedy(), Hint(tree.ErrDamaged)))
	qt.Check(t, qt.Equals(obstacleText(shown[2]), "no idea"))
}
