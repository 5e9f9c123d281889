package installation

import (
	"log/slog"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/membership"
)

// A host that is in no installation has no channels.
func TestSetChannelAlone(t *testing.T) {
	i := &Installation{opt: Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}}
	_, err := i.SetChannel(t.Context(), "", "auto")
	var e *membership.Error
	qt.Check(t, qt.ErrorAs(err, &e))
}
