package installation

import (
	"log/slog"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/channel"
	"github.com/snapctl/snapctl/vem/membership"
)

// What the channels of a host are to be outlives the daemon, also if an older one is next.
func TestChannelFile(t *testing.T) {
	i := &Installation{opt: Options{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}}
	for _, x := range []struct {
		name string
		want channel.Kind
	}{{"", 0}, {"vxlan", channel.VXLAN}, {"tunnel", channel.Tunnel}, {"auto", 0}, {"pigeon", unknownKind}, {"direct", channel.Direct}} {
		if x.name != "" {
			qt.Assert(t, qt.IsNil(i.choice().Write(x.name)))
		}
		k, err := i.onlyChannel(t.Context())
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.Equals(k, x.want))
	}
	_, err := i.SetChannel(t.Context(), "auto")
	var e *membership.Error
	qt.Check(t, qt.ErrorAs(err, &e)) // it is in no installation
}
