package wireguard

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/testenv"
	"github.com/snapctl/snapctl/vem/netns"
)

// A daemon is killed when it has just started a process: the next one ends it.
func TestBrokenStart(t *testing.T) {
	testenv.Need(t, testenv.Root)
	exe, err := os.Executable()
	qt.Assert(t, qt.IsNil(err))
	host, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer host.Close()
	fabric, err := netns.New()
	qt.Assert(t, qt.IsNil(err))
	defer fabric.Close()
	cfg := Config{
		Network: "default", Fabric: fabric, Host: host, Prefix4: netip.MustParsePrefix("10.77.0.0/16"), MTU: 1400,
		Local: Local{Exe: exe, LogPath: filepath.Join(t.TempDir(), "log"), UserSpace: true}, Run: func(f func(context.Context)) { go f(t.Context()) },
	}
	m, err := Open(t.Context(), cfg)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(m.spawn(t.Context())))
	p, err := meet(t.Context(), m.wg.socketPath())
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNil(m.Close()))

	m, err = Open(t.Context(), cfg)
	qt.Assert(t, qt.IsNil(err))
	index, err := m.find()
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(index, 0))
	<-p.ended
	_, err = os.Stat(m.wg.socketPath())
	qt.Check(t, qt.IsTrue(errors.Is(err, os.ErrNotExist)))
	qt.Assert(t, qt.IsNil(m.Delete(t.Context())))
}
