package wire

import (
	"bytes"
	"testing"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/encoding/protowire"
)

// sample has a field of each wire type that is not a group: 1 and 5 are varints,
// 2 a message with varint 7, 3 fixed of 32 and 4 of 64 bits.
func sample() []byte {
	msg := AppendVarint(nil, 1, 300)
	msg = AppendBytes(msg, 2, AppendVarint(nil, 7, 8))
	msg = protowire.AppendFixed32(protowire.AppendTag(msg, 3, protowire.Fixed32Type), 9)
	msg = protowire.AppendFixed64(protowire.AppendTag(msg, 4, protowire.Fixed64Type), 10)
	return AppendVarint(msg, 5, 11)
}

func TestScanner(t *testing.T) {
	msg := sample()
	var rebuilt []byte
	values := make(map[protowire.Number]uint64)
	s := Scan(msg)
	for s.Next() {
		rebuilt = append(rebuilt, s.Raw...)
		values[s.Num] = s.Uint
		if s.Is(2, Bytes) {
			inner := Scan(s.Bytes)
			qt.Assert(t, qt.IsTrue(inner.Next()))
			qt.Check(t, qt.IsTrue(inner.Is(7, Varint)))
			qt.Check(t, qt.Equals(inner.Uint, 8))
		}
		qt.Check(t, qt.IsFalse(s.Is(s.Num, protowire.StartGroupType)))
	}
	qt.Assert(t, qt.IsNil(s.Err))
	qt.Check(t, qt.DeepEquals(rebuilt, msg))
	qt.Check(t, qt.DeepEquals(values, map[protowire.Number]uint64{1: 300, 2: 0, 3: 9, 4: 10, 5: 11}))
}

func TestMalformed(t *testing.T) {
	for name, msg := range map[string][]byte{
		"half a tag":      {0x80},
		"no value":        {0x08},
		"field 0":         {0x00, 0x01},
		"bytes too long":  {0x12, 0x05, 1},
		"half of 32 bits": {0x1d, 1, 2},
		"end of no group": {0x0c},
	} {
		t.Run(name, func(t *testing.T) {
			msg = append(AppendVarint(nil, 1, 1), msg...)
			s := Scan(msg)
			qt.Check(t, qt.IsTrue(s.Next()))
			qt.Check(t, qt.IsFalse(s.Next()))
			qt.Check(t, qt.ErrorIs(s.Err, ErrMalformed))
			qt.Check(t, qt.IsFalse(s.Next())) // it stays where it is

			_, err := SetVarint(nil, msg, 1, 2)
			qt.Check(t, qt.ErrorIs(err, ErrMalformed))
			_, err = ReplaceVarints(msg, nil)
			qt.Check(t, qt.ErrorIs(err, ErrMalformed))
			_, err = Varints(msg)
			qt.Check(t, qt.ErrorIs(err, ErrMalformed))
			_, err = EditAt(msg, []protowire.Number{2}, func(b []byte) ([]byte, error) { return b, nil })
			qt.Check(t, qt.ErrorIs(err, ErrMalformed))
		})
	}
}

func TestSetVarint(t *testing.T) {
	msg, err := SetVarint([]byte("before"), sample(), 5, 12)
	qt.Assert(t, qt.IsNil(err))
	rest, ok := bytes.CutPrefix(msg, []byte("before"))
	qt.Assert(t, qt.IsTrue(ok))
	fields, err := Varints(rest)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(fields, map[protowire.Number]uint64{1: 300, 5: 12}))

	same, err := SetVarint(nil, sample(), 99, 1) // there is no such field
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(same, sample()))
}

func TestReplaceVarints(t *testing.T) {
	msg, err := ReplaceVarints(sample(), map[protowire.Number]uint64{5: 6, 9: 1}, 1, 2)
	qt.Assert(t, qt.IsNil(err))
	fields, err := Varints(msg)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(fields, map[protowire.Number]uint64{5: 6, 9: 1}))
	s := Scan(msg)
	kept := 0
	for s.Next() {
		if s.Is(2, Bytes) { // only varints are dropped
			kept++
		}
	}
	qt.Check(t, qt.Equals(kept, 1))
}

func TestEditAt(t *testing.T) {
	double := func(msg []byte) ([]byte, error) { return SetVarint(nil, msg, 7, 16) }
	msg, err := EditAt(sample(), []protowire.Number{2}, double)
	qt.Assert(t, qt.IsNil(err))
	inner := 0
	s := Scan(msg)
	for s.Next() {
		if s.Is(2, Bytes) {
			fields, err := Varints(s.Bytes)
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.DeepEquals(fields, map[protowire.Number]uint64{7: 16}))
			inner++
		}
	}
	qt.Check(t, qt.Equals(inner, 1))

	same, err := EditAt(sample(), []protowire.Number{2, 99}, double) // the path leads nowhere
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.DeepEquals(same, sample()))
}

// FuzzScan: the fields of a message make up the message, and an edit that changes
// nothing gives the same bytes.
func FuzzScan(f *testing.F) {
	f.Add(sample())
	f.Fuzz(func(t *testing.T, msg []byte) {
		var rebuilt []byte
		s := Scan(msg)
		for s.Next() {
			rebuilt = append(rebuilt, s.Raw...)
		}
		same, err := ReplaceVarints(msg, nil)
		if s.Err != nil {
			qt.Assert(t, qt.ErrorIs(s.Err, ErrMalformed))
			qt.Assert(t, qt.ErrorIs(err, ErrMalformed))
			return
		}
		qt.Assert(t, qt.IsTrue(bytes.Equal(rebuilt, msg)))
		qt.Assert(t, qt.IsNil(err))
		qt.Assert(t, qt.IsTrue(bytes.Equal(same, msg)))
	})
}
