package probe

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

// KeyName tells which key a datagram was sealed with. It is no secret.
type KeyName [8]byte

// Key is what two hosts know and nobody else, so that one of them can ask the other.
type Key struct {
	Name   KeyName
	secret [32]byte
}

// label is what the exporter of TLS makes keys of this package for.
const label = "EXPORTER-snapctl-probe"

// NewKey returns the key of a TLS connection between two hosts: the client's, to ask the server.
// Both get the same one. The connection has to be of TLS 1.3.
func NewKey(cs tls.ConnectionState) (k Key, err error) {
	if !cs.HandshakeComplete {
		return Key{}, errors.New("make a key for probes: the connection has no keys yet")
	}
	b, err := cs.ExportKeyingMaterial(label, nil, len(k.Name)+len(k.secret))
	if err != nil {
		return Key{}, fmt.Errorf("make a key for probes: %w", err)
	}
	copy(k.Name[:], b)
	copy(k.secret[:], b[len(k.Name):])
	return k, nil
}

// maxKeys is how many keys are kept by which a host may ask: it may have made some connections of
// which it does not know that they came about.
const maxKeys = 4

// asker is a key by which another host asks.
type asker struct {
	host string
	key  Key
	seen window
	pace *rate.Limiter
}

func newAsker(host string, k Key) *asker {
	// 16 addresses on each side, each pair asked eight sizes a second, are less.
	return &asker{host: host, key: k, pace: rate.NewLimiter(4096, 4096)}
}

// admit tells whether an ask that is genuine is new, and not one too many.
func (a *asker) admit(number uint64, now time.Time) bool {
	return a.seen.add(number) && a.pace.AllowN(now, 1)
}

// windowSize is how many numbers back an ask may come after a later one.
const windowSize = 1024

// window remembers which of the last numbers have come (RFC 6479). The zero one has seen none.
type window struct {
	last uint64
	bits [windowSize / 64]uint64 // bit n%windowSize: number n has come
}

// add notes that a number has come. It returns false if it came before, or is too old to know.
// Number 0 never comes.
func (w *window) add(number uint64) bool {
	if number == 0 || number <= w.last-min(w.last, windowSize) {
		return false
	}
	if number > w.last {
		for ago := range min(number-w.last, windowSize) {
			n := number - ago
			w.bits[n%windowSize/64] &^= 1 << (n % 64)
		}
		w.last = number
	}
	word, bit := &w.bits[number%windowSize/64], uint64(1)<<(number%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	return true
}
