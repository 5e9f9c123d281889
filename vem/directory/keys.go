package directory

import (
	"net/netip"
	"slices"
	"strings"
)

// root is what the keys of all installations begin with.
const root = "/snapctl/"

// Kind is a kind of record. In the key of an entry, the name of the record follows it.
type Kind string

// The kinds of records, with what their names are.
const (
	KindMeta     Kind = "meta"      // one, without a name: what the installation is
	KindHost     Kind = "host/"     // host
	KindSession  Kind = "session/"  // host
	KindMade     Kind = "made/"     // host
	KindSeen     Kind = "seen/"     // host, which keeps it alive
	KindNetwork  Kind = "network/"  // network
	KindNetworks Kind = "networks"  // one, without a name: changed together with any network
	KindBlock    Kind = "block/"    // network/first address
	KindEndpoint Kind = "endpoint/" // network/IPv4 address
	KindApp      Kind = "app/"      // app
	KindRestored Kind = "restored"  // one, without a name: that the directory was put back from a backup
)

// named are the kinds whose records have names.
var named = []Kind{KindHost, KindSession, KindMade, KindSeen, KindNetwork, KindBlock, KindEndpoint, KindApp}

// keys are the keys of one installation: what all of them begin with.
type keys string

func keysOf(installation string) keys { return keys(root + installation + "/") }

func (k keys) of(kind Kind, name string) string { return string(k) + string(kind) + name }

func (k keys) host(host string) string    { return k.of(KindHost, host) }
func (k keys) session(host string) string { return k.of(KindSession, host) }
func (k keys) made(host string) string    { return k.of(KindMade, host) }
func (k keys) seen(host string) string    { return k.of(KindSeen, host) }
func (k keys) app(app string) string      { return k.of(KindApp, app) }

func (k keys) network(network string) string { return k.of(KindNetwork, network) }

func (k keys) endpoint(network string, addr netip.Addr) string {
	return k.of(KindEndpoint, network+"/"+addr.String())
}

func (k keys) block(network string, first netip.Addr) string {
	return k.of(KindBlock, network+"/"+first.String())
}

// parse divides a key. It tells false for a key that is not of the installation, or of a kind
// that this version does not know.
func (k keys) parse(key string) (Kind, string, bool) {
	rest, ok := strings.CutPrefix(key, string(k))
	if !ok {
		return "", "", false
	}
	if Kind(rest) == KindMeta || Kind(rest) == KindNetworks || Kind(rest) == KindRestored {
		return Kind(rest), "", true
	}
	dir, name, _ := strings.Cut(rest, "/")
	kind := Kind(dir + "/")
	return kind, name, name != "" && slices.Contains(named, kind)
}
