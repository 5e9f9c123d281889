package choice

import (
	"log/slog"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/channel"
)

// What the channels of a host are to be outlives the daemon, also if an older one is next.
func TestDir(t *testing.T) {
	d := Dir(t.TempDir())
	is := func(want map[string]channel.Kind) {
		t.Helper()
		got, err := d.Given(t.Context(), slog.New(slog.DiscardHandler))
		qt.Assert(t, qt.IsNil(err))
		qt.Check(t, qt.DeepEquals(got, want))
	}
	is(map[string]channel.Kind{"": 0})
	for _, x := range []struct {
		name string
		want channel.Kind
	}{{"vxlan", channel.VXLAN}, {"tunnel", channel.Tunnel}, {"auto", 0}, {"pigeon", Unknown}, {"direct", channel.Direct}} {
		qt.Assert(t, qt.IsNil(d.Write("", x.name)))
		is(map[string]channel.Kind{"": x.want})
	}
	qt.Assert(t, qt.IsNil(d.Write("blue", "vxlan")))
	qt.Assert(t, qt.IsNil(d.Write("new", "tunnel")))
	is(map[string]channel.Kind{"": channel.Direct, "blue": channel.VXLAN, "new": channel.Tunnel})
	qt.Assert(t, qt.IsNil(d.Write("blue", "auto")))
	qt.Assert(t, qt.IsNil(d.Write("blue", "auto")))
	is(map[string]channel.Kind{"": channel.Direct, "new": channel.Tunnel})
	names, err := d.Read()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(names, map[string]string{"": "direct", "new": "tunnel"}))

	d = Dir(filepath.Join(string(d), "channel")) // no folder
	qt.Check(t, qt.IsNotNil(d.Write("", "auto")))
	qt.Check(t, qt.IsNotNil(d.Write("blue", "vxlan")))
	_, err = d.Given(t.Context(), slog.New(slog.DiscardHandler))
	qt.Check(t, qt.IsNotNil(err))
}
