package peer

import (
	"encoding/binary"
	"slices"
)

const wordSize = 8

// A code is what the words of one stream are made with. Word n is the code plus
// n, so a word tells its number, and one of another stream, or one that is not
// where a word begins, tells nonsense: codes differ in all their bits.
type code uint64

func codeOf(key uint64, d Direction) code { return code(mix(mix(key) + uint64(d))) }

// mix is the finalizer of SplitMix64 (Steele, Lea, Flood: Fast Splittable
// Pseudorandom Number Generators, 2014).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// fill writes the bytes of the stream that begin at position pos.
func (c code) fill(b []byte, pos uint64) {
	var w [wordSize]byte
	n := pos / wordSize
	if skip := int(pos % wordSize); skip != 0 {
		binary.LittleEndian.PutUint64(w[:], uint64(c)+n)
		b = b[copy(b, w[skip:]):]
		n++
	}
	for len(b) >= wordSize {
		binary.LittleEndian.PutUint64(b, uint64(c)+n)
		b = b[wordSize:]
		n++
	}
	binary.LittleEndian.PutUint64(w[:], uint64(c)+n)
	copy(b, w[:])
}

// number returns the number of a word.
func (c code) number(w uint64) uint64 { return w - uint64(c) }

// end is the word that ends a stream. A word with the stream's length follows.
func (c code) end() uint64 { return mix(uint64(c)) }

// near tells whether a word may have number n where next was expected; no
// stream is so disturbed that it jumps by more.
func near(n, next uint64) bool {
	const most = 1 << 32
	d := int64(n - next)
	return -most < d && d < most && n < 1<<62
}

// Span is the numbers from First to Last.
type Span struct {
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
}

// sequence takes numbers that should come as 0, 1, 2, ... and keeps account of
// those that did not.
type sequence struct {
	next       uint64 // the first that never came, and none above came either
	missing    []Span // below next, ascending
	reordered  uint64 // came late
	duplicated uint64 // came again
}

// verdict is what a number was.
type verdict int

const (
	inOrder verdict = iota
	gap             // came too early: others are missing now
	late            // was missing
	again           // came before
)

func (s *sequence) add(n uint64) verdict {
	switch {
	case n == s.next:
		s.next++
		return inOrder
	case n > s.next:
		s.missing = append(s.missing, Span{s.next, n - 1})
		s.next = n + 1
		return gap
	}
	i := slices.IndexFunc(s.missing, func(m Span) bool { return m.First <= n && n <= m.Last })
	if i < 0 {
		s.duplicated++
		return again
	}
	m := s.missing[i]
	var rest []Span
	if m.First < n {
		rest = append(rest, Span{m.First, n - 1})
	}
	if n < m.Last {
		rest = append(rest, Span{n + 1, m.Last})
	}
	s.missing = slices.Replace(s.missing, i, i+1, rest...)
	s.reordered++
	return late
}

// lost counts what is missing of the first sent numbers.
func (s *sequence) lost(sent uint64) uint64 {
	var n uint64
	for _, m := range s.missing {
		n += m.Last - m.First + 1
	}
	if sent > s.next {
		n += sent - s.next
	}
	return n
}
