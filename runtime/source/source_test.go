package source

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/go-quicktest/qt"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/vem/wake"
)

func TestRecordOfASnapshot(t *testing.T) {
	m := &snapshot.Manifest{
		App: "cache", Spec: &specs.Spec{Hostname: "cache"},
		Address: snapshot.Address{Network: "blue", Endpoint: "10.77.0.7", Endpoint6: "fd00::7"},
		Content: snapshot.Content{Layers: []layer.Ref{{Own: true}}, HostFiles: []hostfile.File{{Own: true}}},
		Policy:  &snapshot.Policy{Wake: "never", HibernateAfter: time.Minute, RestoreMemory: "copied"},
	}
	rec, err := RecordOf(m)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(rec.Network, "blue"))
	four, six := rec.Inside()
	qt.Check(t, qt.Equals(four, netip.MustParseAddr("10.77.0.7")))
	qt.Check(t, qt.Equals(six, netip.MustParseAddr("fd00::7")))
	qt.Check(t, qt.Equals(rec.Wake.Mode, wake.Never))
	qt.Check(t, qt.Equals(rec.RestoreMemory, restore.Copy))
	// What the snapshot owns the app only uses.
	qt.Check(t, qt.IsFalse(rec.Layers[0].Own || rec.HostFiles[0].Own))
	qt.Check(t, qt.IsTrue(m.Layers[0].Own && m.HostFiles[0].Own))

	m.Endpoint = "nowhere"
	_, err = RecordOf(m)
	qt.Check(t, qt.ErrorMatches(err, "endpoint: .*"))
}

func TestRepeatedRandomNumbers(t *testing.T) {
	qt.Check(t, qt.IsNil(Repeats(nil, Cloned)))
	n := Repeats([]string{"OpenSSL in process 1 (redis-server)"}, Cloned)
	qt.Assert(t, qt.IsNotNil(n))
	qt.Check(t, qt.IsTrue(strings.Contains(n.Text, "in every clone") && strings.Contains(n.Text, "redis-server")))
	qt.Check(t, qt.IsTrue(strings.Contains(n.Remedy, "template's rules")))
	qt.Check(t, qt.IsFalse(strings.Contains(Repeats([]string{"x"}, Restored).Remedy, "template's rules")))
}
