package wake_test

import (
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/wake"
)

// TestIgnores checks which sources a policy means.
func TestIgnores(t *testing.T) {
	for name, test := range map[string]struct {
		prefix, source string
		want           bool
	}{
		"IPv4":                   {"10.77.0.0/16", "10.77.0.1", true},
		"another IPv4":           {"10.77.0.0/16", "10.78.0.1", false},
		"mapped prefix":          {"::ffff:10.77.0.0/112", "10.77.0.1", true},
		"mapped prefix, another": {"::ffff:10.77.0.0/112", "10.78.0.1", false},
		"mapped source":          {"10.77.0.0/16", "::ffff:10.77.0.1", true},
		"both mapped":            {"::ffff:10.77.0.1/128", "::ffff:10.77.0.1", true},
		"IPv6 is not IPv4":       {"::/0", "10.77.0.1", false},
		"IPv6 with a zone":       {"fe80::/10", "fe80::1%eth0", true},
	} {
		t.Run(name, func(t *testing.T) {
			policy := wake.Policy{Ignore: []netip.Prefix{netip.MustParsePrefix(test.prefix)}}
			qt.Assert(t, qt.IsNil(policy.Validate()))
			qt.Assert(t, qt.Equals(policy.Ignores(netip.MustParseAddr(test.source)), test.want))
		})
	}
	wide := wake.Policy{Ignore: []netip.Prefix{netip.MustParsePrefix("::ffff:0.0.0.0/80")}}
	qt.Assert(t, qt.ErrorIs(wide.Validate(), wake.ErrPolicy))
}
