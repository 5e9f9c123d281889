package peer

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/go-quicktest/qt"
)

// stream returns a whole stream of n words.
func stream(key uint64, d Direction, n int) []byte {
	c := codeOf(key, d)
	b := make([]byte, n*wordSize)
	c.fill(b, 0)
	b = binary.LittleEndian.AppendUint64(b, c.end())
	return binary.LittleEndian.AppendUint64(b, uint64(n))
}

// cut removes the bytes from i to j.
func cut(i, j int) func([]byte) []byte {
	return func(b []byte) []byte { return slices.Delete(b, i, j) }
}

// repeat has the bytes from i to j come twice.
func repeat(i, j int) func([]byte) []byte {
	return func(b []byte) []byte { return slices.Insert(b, j, slices.Clone(b[i:j])...) }
}

// later has the bytes from i to j come after those up to k.
func later(i, j, k int) func([]byte) []byte {
	return func(b []byte) []byte {
		return slices.Concat(b[:i], b[j:k], b[i:j], b[k:])
	}
}

func TestVerifier(t *testing.T) {
	const n = 1000
	tests := map[string]struct {
		disturb func([]byte) []byte
		want    Kind // 0: none
		offset  uint64
	}{
		"nothing":                {disturb: slices.Clone[[]byte]},
		"one word lost":          {cut(800, 808), Loss, 800},
		"many words lost":        {cut(80, 4000), Loss, 80},
		"one byte lost":          {cut(803, 804), Loss, 800},
		"seven bytes lost":       {cut(801, 808), Loss, 800},
		"first word lost":        {cut(0, 8), Loss, 0},
		"odd bytes lost":         {cut(801, 1234), Loss, 800},
		"last word lost":         {cut(7992, 8000), Loss, 8000},
		"one word again":         {repeat(800, 808), Duplicate, 808},
		"a segment again":        {repeat(801, 2241), Duplicate, 2240},
		"one byte again":         {repeat(800, 801), Duplicate, 800},
		"a part of a word again": {repeat(802, 805), Duplicate, 800},
		"seven bytes again":      {repeat(801, 808), Duplicate, 808},
		"part of the last again": {repeat(7994, 7999), Duplicate, 7992},
		"odd bytes again":        {repeat(803, 1006), Duplicate, 1000},
		"part of the last lost":  {cut(7994, 7999), Loss, 7992},
		"all again":              {repeat(0, 8000), Duplicate, 8000},
		"two words swapped":      {later(800, 808, 816), Reorder, 800},
		"a segment late":         {later(800, 2240, 3680), Reorder, 800},
		"a segment late, odd":    {later(801, 2241, 3681), Reorder, 800},
		"a bit flipped":          {func(b []byte) []byte { b[803] ^= 4; return b }, Corrupt, 800},
		"a high bit flipped":     {func(b []byte) []byte { b[807] ^= 128; return b }, Corrupt, 800},
		"a low bit flipped":      {func(b []byte) []byte { b[800] ^= 128; return b }, Corrupt, 800},
		"the last changed":       {func(b []byte) []byte { b[7993]++; return b }, Corrupt, 7992},
		"other bytes":            {func(b []byte) []byte { copy(b[800:], make([]byte, 64)); return b }, Corrupt, 800},
		"other stream":           {func([]byte) []byte { return stream(2, Up, n) }, Corrupt, 0},
		"other direction":        {func([]byte) []byte { return stream(1, Down, n) }, Corrupt, 0},
		"ends early":             {func(b []byte) []byte { return b[:4000] }, Truncated, 4000},
		"ends early in a word":   {func(b []byte) []byte { return b[:4003] }, Truncated, 4000},
		"ends before its count":  {func(b []byte) []byte { return b[:len(b)-8] }, Truncated, 8008},
		"nothing at all":         {func([]byte) []byte { return nil }, Truncated, 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			random := rand.New(rand.NewPCG(1, 1))
			for range 20 { // each in other pieces
				b := append(tt.disturb(stream(1, Up, n)), "trailer"...)
				if tt.want == Truncated {
					b = b[:len(b)-len("trailer")]
				}
				v := newVerifier(1, Up)
				for len(b) > 0 {
					some := min(len(b), 1+random.IntN(100))
					v.write(b[:some])
					b = b[some:]
				}
				v.close()
				if tt.want == 0 {
					qt.Assert(t, qt.IsNil(v.fault))
					qt.Assert(t, qt.Equals(string(v.trailer), "trailer"))
					continue
				}
				qt.Assert(t, qt.IsNotNil(v.fault))
				qt.Assert(t, qt.Equals(v.fault.Kind, tt.want), qt.Commentf("%v", v.fault))
				qt.Assert(t, qt.Equals(v.fault.Offset, tt.offset), qt.Commentf("%v", v.fault))
			}
		})
	}
}

func TestSequence(t *testing.T) {
	tests := map[string]struct {
		numbers                     []uint64
		sent                        uint64
		lost, reordered, duplicated uint64
	}{
		"in order":     {numbers: []uint64{0, 1, 2}, sent: 3},
		"none":         {sent: 3, lost: 3},
		"tail":         {numbers: []uint64{0, 1}, sent: 3, lost: 1},
		"gap":          {numbers: []uint64{0, 5}, sent: 6, lost: 4},
		"late":         {numbers: []uint64{1, 0}, sent: 2, reordered: 1},
		"late, middle": {numbers: []uint64{0, 5, 3}, sent: 6, lost: 3, reordered: 1},
		"again":        {numbers: []uint64{0, 1, 0, 1}, sent: 2, duplicated: 2},
		"late again":   {numbers: []uint64{0, 5, 3, 3}, sent: 6, lost: 3, reordered: 1, duplicated: 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var s sequence
			for _, n := range tt.numbers {
				s.add(n)
			}
			qt.Check(t, qt.Equals(s.lost(tt.sent), tt.lost))
			qt.Check(t, qt.Equals(s.reordered, tt.reordered))
			qt.Check(t, qt.Equals(s.duplicated, tt.duplicated))
		})
	}
}

// FuzzVerifier feeds a verifier what may come from a broken peer: it must
// neither panic nor keep more than it says, and must see that it is no stream.
func FuzzVerifier(f *testing.F) {
	f.Add(stream(1, Up, 10), 7)
	f.Add(stream(1, Up, 10)[3:], 7)
	f.Fuzz(func(t *testing.T, b []byte, piece int) {
		v := newVerifier(1, Up)
		for c := range slices.Chunk(b, max(1, piece)) {
			v.write(c)
			if len(v.pending) >= lookahead {
				t.Fatalf("%d bytes pending", len(v.pending))
			}
		}
		v.close()
		if len(v.trailer) > maxTrailer {
			t.Fatalf("trailer of %d bytes", len(v.trailer))
		}
		if n := int(v.seq.next); v.fault == nil && string(b) != string(stream(1, Up, n))+string(v.trailer) {
			t.Fatal("took another stream for its own")
		}
	})
}

func FuzzParseDatagram(f *testing.F) {
	f.Add(datagram{kind: data, key: 1}.head())
	f.Fuzz(func(t *testing.T, b []byte) {
		d, rest, ok := parseDatagram(b)
		if ok && len(rest)+headSize != len(b) {
			t.Fatal("lost bytes")
		}
		if again, _, ok2 := parseDatagram(d.head()); ok && (!ok2 || again != d) {
			t.Fatalf("got %+v, again %+v", d, again)
		}
	})
}
