package transfers

import (
	"errors"
	"fmt"
	"testing"

	"github.com/go-quicktest/qt"
	"google.golang.org/grpc/codes"

	"github.com/snapctl/snapctl/runtime/cargo"
	"github.com/snapctl/snapctl/vem/control"
)

func TestErrors(t *testing.T) {
	space := &cargo.SpaceError{Dir: "/var/lib/snapctl/memory", NeededBytes: 3 << 20, FreeBytes: 1 << 20}
	for name, test := range map[string]struct {
		err  error
		code codes.Code
		hint string
	}{
		"other":       {errors.New("anything"), codes.OK, ""},
		"no room":     {fmt.Errorf("receive: %w", space), codes.ResourceExhausted, "free 2097152 bytes there"},
		"cut":         {fmt.Errorf("receive: %w", cargo.ErrCut), codes.Unknown, "nothing is left of it: try again"},
		"unknown":     {fmt.Errorf("send: %w", cargo.ErrUnknown), codes.Unknown, "it is there whole, or not at all"},
		"unreachable": {&control.UnreachableError{Host: "b", Err: errors.New("reset")}, codes.Unknown, "nothing is left of it: look whether b runs"},
	} {
		t.Run(name, func(t *testing.T) {
			qt.Check(t, qt.Equals(Code(test.err), test.code))
			qt.Check(t, qt.StringContains(Hint(test.err), test.hint))
			qt.Check(t, qt.Equals(Hint(test.err) == "", test.hint == ""))
		})
	}
}
