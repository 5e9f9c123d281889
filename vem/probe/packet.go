package probe

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"net/netip"
)

// kind is what a datagram is.
type kind byte

const (
	ask    kind = 1
	answer kind = 2
)

// The bytes of a datagram; numbers are big endian. What follows the header of an ask is padding.
//
//	0   3  magic
//	3   1  kind
//	4   8  name of the key
//	12  8  number of the ask
//	20  2  how many bytes the ask has
//	22  2  zero
//	24  16 MAC
const (
	magic      = "SP1"
	atKind     = 3
	atKey      = 4
	atNumber   = 12
	atSize     = 20
	atZero     = 22
	atMAC      = 24
	headerSize = 40
	// maxSize is the largest payload of a UDP datagram over IPv4 (RFC 768).
	maxSize = 1<<16 - 1 - 28
)

// packet is a datagram as it is read, before its MAC was checked.
type packet struct {
	kind   kind
	key    KeyName
	number uint64
	size   int // bytes of the ask
}

// parse reads a datagram. It is not ok if b is none of this package.
func parse(b []byte) (p packet, ok bool) {
	if len(b) < headerSize || len(b) > maxSize || string(b[:atKind]) != magic {
		return packet{}, false
	}
	p = packet{
		kind: kind(b[atKind]), key: KeyName(b[atKey:atNumber]),
		number: binary.BigEndian.Uint64(b[atNumber:]), size: int(binary.BigEndian.Uint16(b[atSize:])),
	}
	if b[atZero] != 0 || b[atZero+1] != 0 || p.size < headerSize {
		return packet{}, false
	}
	switch p.kind {
	case ask:
		return p, p.size == len(b)
	case answer:
		return p, len(b) == headerSize
	}
	return packet{}, false
}

// ends are the addresses of a way, as both hosts name them.
type ends struct{ asks, answers netip.Addr }

// seal makes a datagram with a key: an ask of p.size bytes, or an answer.
func seal(p packet, k Key, e ends) []byte {
	size := headerSize
	if p.kind == ask {
		size = p.size
	}
	b := make([]byte, size)
	copy(b, magic)
	b[atKind] = byte(p.kind)
	copy(b[atKey:], k.Name[:])
	binary.BigEndian.PutUint64(b[atNumber:], p.number)
	binary.BigEndian.PutUint16(b[atSize:], uint16(p.size)) //nolint:gosec // at most maxSize
	copy(b[atMAC:headerSize], mac(b, k, e))
	return b
}

// genuine tells whether a datagram that was parsed was sealed with a key, for a way.
func genuine(b []byte, k Key, e ends) bool {
	return hmac.Equal(b[atMAC:headerSize], mac(b, k, e))
}

// mac covers the header and the way's ends. 16 bytes are half of the hash (RFC 2104, 5).
func mac(b []byte, k Key, e ends) []byte {
	h := hmac.New(sha256.New, k.secret[:])
	h.Write(b[:atMAC])
	for _, a := range []netip.Addr{e.asks, e.answers} {
		full := a.As16()
		h.Write(full[:])
	}
	return h.Sum(nil)[:headerSize-atMAC]
}
