package template

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// IDKind says what an id is of.
type IDKind string

// The kinds, and what their ids look like.
const (
	IDPid       IDKind = "pid"       // numbers
	IDIPC       IDKind = "ipc"       // "shm key 0x... id 0": an object; any text
	IDAddress   IDKind = "address"   // IP addresses: the frozen one, and the endpoint
	IDPort      IDKind = "port"      // "ADDR:PORT/tcp"; "*:PORT/tcp" is any address
	IDHostname  IDKind = "hostname"  // any text
	IDPath      IDKind = "path"      // absolute paths
	IDStorage   IDKind = "storage"   // a layer's name or path inside, a directory of the host
	IDNamespace IDKind = "namespace" // "net", and "net:[4026531840]"
)

// IDKinds lists the kinds in the order in which they are shown.
func IDKinds() []IDKind {
	return []IDKind{IDHostname, IDAddress, IDPort, IDPath, IDStorage, IDPid, IDNamespace, IDIPC}
}

// ID maps one id that a clone knows, and that is the same in all of its copies,
// onto what it is outside, where it is unique.
type ID struct {
	Kind    IDKind `json:"kind"`
	Virtual string `json:"virtual"` // as the clone knows it
	Actual  string `json:"actual"`  // as the host knows it; empty: none while the app has no processes
	Detail  string `json:"detail,omitempty"`
}

// IDMap is the ids of one app.
type IDMap []ID

// Validate checks that each id looks as its kind does, and that no id inside
// stands for two. Returns an error wrapping ErrInvalid.
func (m IDMap) Validate() error {
	seen := make(map[[2]string]bool, len(m))
	for i, id := range m {
		check, ok := idChecks[id.Kind]
		if !ok {
			return fmt.Errorf("%w id map: entry %d: kind %q: want %s", ErrInvalid, i, id.Kind, anyOf(asText(IDKinds())))
		}
		if !check(id.Virtual) {
			return fmt.Errorf("%w id map: entry %d: %q is not the inside of a %s", ErrInvalid, i, id.Virtual, id.Kind)
		}
		if id.Actual != "" && !check(id.Actual) {
			return fmt.Errorf("%w id map: entry %d: %q is not the outside of a %s", ErrInvalid, i, id.Actual, id.Kind)
		}
		key := [2]string{string(id.Kind), id.Virtual}
		// A port may be published at several of the host's.
		if seen[key] && id.Kind != IDPort {
			return fmt.Errorf("%w id map: entry %d: %s %q a second time", ErrInvalid, i, id.Kind, id.Virtual)
		}
		seen[key] = true
	}
	return nil
}

func asText[T ~string](all []T) []string {
	texts := make([]string, len(all))
	for i, one := range all {
		texts[i] = string(one)
	}
	return texts
}

var idChecks = map[IDKind]func(string) bool{
	IDPid: func(s string) bool {
		n, err := strconv.ParseInt(s, 10, 32)
		return err == nil && n > 0
	},
	IDIPC: someText,
	IDAddress: func(s string) bool {
		_, err := netip.ParseAddr(s)
		return err == nil
	},
	IDPort:      isPort,
	IDHostname:  someText,
	IDPath:      isPath,
	IDStorage:   someText,
	IDNamespace: someText,
}

func someText(s string) bool { return s != "" && !strings.ContainsRune(s, 0) }

func isPath(s string) bool { return path.IsAbs(s) && !strings.ContainsRune(s, 0) }

func isPort(s string) bool {
	where, protocol, ok := strings.Cut(s, "/")
	if !ok || !slices.Contains(Protocol("").words(), protocol) {
		return false
	}
	where = strings.Replace(where, "*:", "0.0.0.0:", 1)
	ap, err := netip.ParseAddrPort(where)
	return err == nil && ap.Port() > 0
}

// Actual finds what an id inside is outside.
func (m IDMap) Actual(kind IDKind, virtual string) (actual string, ok bool) {
	for _, id := range m {
		if id.Kind == kind && id.Virtual == virtual {
			return id.Actual, true
		}
	}
	return "", false
}

// Sort puts the ids in the order in which they are shown: by kind, and within
// one as they were, but for pids, which are by number.
func (m IDMap) Sort() {
	order := IDKinds()
	slices.SortStableFunc(m, func(a, b ID) int {
		if a.Kind != b.Kind {
			return slices.Index(order, a.Kind) - slices.Index(order, b.Kind)
		}
		if a.Kind != IDPid {
			return 0
		}
		x, _ := strconv.Atoi(a.Virtual) // of what is no number the order does not matter
		y, _ := strconv.Atoi(b.Virtual)
		return x - y
	})
}

// ParseIDMap reads an id map from JSON, and validates it. Its Marshal is that
// of package json. Returns an error wrapping ErrInvalid.
func ParseIDMap(text []byte) (IDMap, error) {
	var m IDMap
	if err := json.Unmarshal(text, &m); err != nil {
		return nil, fmt.Errorf("%w id map: %w", ErrInvalid, err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return m, nil
}
