package checkpoint

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/runtime/checkpoint/early"
	"github.com/snapctl/snapctl/snapshot/criu"
)

// TestCare takes more care once for each cause.
func TestCare(t *testing.T) {
	var c Care
	qt.Check(t, qt.IsFalse(c.Heed(nil)))
	qt.Check(t, qt.IsFalse(c.Heed(errors.New("disk full"))))
	qt.Check(t, qt.IsTrue(c.Heed(fmt.Errorf("hold: %w", ErrChanged))))
	qt.Check(t, qt.IsFalse(c.Heed(ErrChanged)))
	qt.Check(t, qt.IsTrue(c.Heed(fmt.Errorf("%w: of CRIU", ErrShortcut))))
	qt.Check(t, qt.IsFalse(c.Heed(ErrShortcut)))
	qt.Check(t, qt.Equals(c, Care{Thorough: true, Plain: true}))
}

// TestBlame tells failures of which shortcuts may be the cause from all others.
func TestBlame(t *testing.T) {
	for name, test := range map[string]struct {
		criu int // of a CRIU from which something was kept
		err  error
		want bool
	}{
		"CRIU by itself":     {1, fmt.Errorf("snapshot: %w", &criu.Error{Op: "dump", Alone: true}), true},
		"CRIU, refused":      {1, &criu.Error{Op: "dump", Err: errors.New("disk full")}, false},
		"CRIU as it is":      {0, &criu.Error{Op: "dump", Alone: true}, false},
		"memory left out":    {1, &criu.Error{Op: "dump", Err: fmt.Errorf("%w: a page", early.ErrUnfit)}, true},
		"connections hidden": {1, &criu.Error{Op: "dump", Err: fmt.Errorf("%w: one", errHidden)}, true},
		"something else":     {1, errors.New("disk full"), false},
	} {
		t.Run(name, func(t *testing.T) {
			o := taking{t: &Tools{Log: slog.New(slog.DiscardHandler)}, s: &Subject{}, criu: test.criu}
			err := o.blame(t.Context(), test.err)
			qt.Check(t, qt.ErrorIs(err, test.err))
			qt.Check(t, qt.Equals(errors.Is(err, ErrShortcut), test.want))
		})
	}
}
