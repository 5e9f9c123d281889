package wireguard

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

// A host keeps its secret, and has another key pair in each network.
func TestSecret(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wireguard")
	s, err := LoadSecret(path)
	qt.Assert(t, qt.IsNil(err))
	info, err := os.Stat(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(info.Mode().Perm(), 0o600))
	again, err := LoadSecret(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(again, s))
	one, err := s.key("one")
	qt.Assert(t, qt.IsNil(err))
	same, err := again.key("one")
	qt.Assert(t, qt.IsNil(err))
	two, err := s.key("two")
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Equals(one, same))
	qt.Check(t, qt.Not(qt.Equals(one, two)))

	qt.Assert(t, qt.IsNil(os.WriteFile(path, []byte("c2hvcnQ=\n"), 0o600)))
	_, err = LoadSecret(path)
	qt.Check(t, qt.ErrorMatches(err, "read secret of WireGuard: .*/wireguard does not have 32 bytes in base64: remove it, and another one is made"))
	qt.Assert(t, qt.IsNil(os.Remove(path)))
	other, err := LoadSecret(path)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.Not(qt.Equals(other, s)))
	_, err = LoadSecret(filepath.Join(path, "none"))
	qt.Check(t, qt.ErrorMatches(err, "read secret of WireGuard: .*"))
}

// Ports are within their range.
func TestFirstPort(t *testing.T) {
	for _, network := range []string{"", "default", "second", "a-network-with-a-long-name"} {
		p := firstPort(network)
		qt.Check(t, qt.IsTrue(p >= FirstPort && p < FirstPort+Ports), qt.Commentf("%s: %d", network, p))
	}
}
