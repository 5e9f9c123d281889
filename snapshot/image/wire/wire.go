// Package wire reads and edits protobuf messages in their wire format, field by
// field.
//
// CRIU's images hold such messages, also of types and with fields that snapctl
// has never heard of. An edit on the wire format leaves those as they are, byte
// for byte, and copies nothing that it does not change. A [Scanner] reads the
// fields of a message; the other functions build a message anew with some fields
// changed.
//
// Messages may be hostile: bytes that are no message give an error wrapping
// [ErrMalformed].
package wire

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// ErrMalformed means that bytes are not what they should be: a record
// reaches past the end of its file, or a message cannot be parsed.
var ErrMalformed = errors.New("malformed image")

// The two wire types that nearly all fields of CRIU have.
const (
	Varint = protowire.VarintType
	Bytes  = protowire.BytesType
)

// A Scanner walks over the top-level fields of one protobuf message without
// copying. It is used as bufio.Scanner is.
type Scanner struct {
	rest []byte
	Err  error // why the walk ended early; nil if it reached the end

	// The field at hand. Its bytes are part of the message.
	Num   protowire.Number
	Type  protowire.Type
	Raw   []byte // tag and value
	Uint  uint64 // the value of a varint or fixed field
	Bytes []byte // the value of a length-delimited field
}

// Scan returns a scanner that stands before the first field of a message.
func Scan(msg []byte) Scanner { return Scanner{rest: msg} }

// Next moves to the next field. It returns false at the end and on an error,
// which is then in s.Err.
func (s *Scanner) Next() bool {
	if len(s.rest) == 0 || s.Err != nil {
		return false
	}
	num, typ, n := protowire.ConsumeTag(s.rest)
	if n < 0 {
		return s.fail(n)
	}
	value := s.rest[n:]
	var m int
	s.Uint, s.Bytes = 0, nil
	switch typ {
	case protowire.VarintType:
		s.Uint, m = protowire.ConsumeVarint(value)
	case protowire.BytesType:
		s.Bytes, m = protowire.ConsumeBytes(value)
	case protowire.Fixed64Type:
		s.Uint, m = protowire.ConsumeFixed64(value)
	case protowire.Fixed32Type:
		var v uint32
		v, m = protowire.ConsumeFixed32(value)
		s.Uint = uint64(v)
	case protowire.StartGroupType, protowire.EndGroupType:
		m = protowire.ConsumeFieldValue(num, typ, value)
	default:
		m = protowire.ConsumeFieldValue(num, typ, value)
	}
	if m < 0 {
		return s.fail(m)
	}
	s.Num, s.Type, s.Raw = num, typ, s.rest[:n+m]
	s.rest = s.rest[n+m:]
	return true
}

func (s *Scanner) fail(code int) bool {
	s.Err = fmt.Errorf("parse message: %w: %w", ErrMalformed, protowire.ParseError(code))
	return false
}

// Is tells whether the field at hand has this number and wire type.
func (s *Scanner) Is(num protowire.Number, typ protowire.Type) bool {
	return s.Num == num && s.Type == typ
}

// AppendVarint appends a varint field.
func AppendVarint(dst []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, num, Varint), v)
}

// AppendBytes appends a length-delimited field.
func AppendBytes(dst []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, num, Bytes), v)
}

// SetVarint appends msg to dst with the value of its varint field num changed.
// All else stays as it is; a message without the field stays whole.
func SetVarint(dst, msg []byte, num protowire.Number, v uint64) ([]byte, error) {
	s := Scan(msg)
	for s.Next() {
		if s.Is(num, Varint) {
			dst = AppendVarint(dst, num, v)
		} else {
			dst = append(dst, s.Raw...)
		}
	}
	return dst, s.Err
}

// ReplaceVarints sets varint fields, whether they were there or not, and drops
// others. All else stays as it is.
func ReplaceVarints(msg []byte, set map[protowire.Number]uint64, drop ...protowire.Number) ([]byte, error) {
	out := make([]byte, 0, len(msg)+16)
	s := Scan(msg)
	for s.Next() {
		_, ok := set[s.Num]
		if s.Type != Varint || !ok && !slices.Contains(drop, s.Num) {
			out = append(out, s.Raw...)
		}
	}
	for _, num := range slices.Sorted(maps.Keys(set)) {
		out = AppendVarint(out, num, set[num])
	}
	return out, s.Err
}

// Varints reads the varint fields of a message.
func Varints(msg []byte) (map[protowire.Number]uint64, error) {
	fields := make(map[protowire.Number]uint64)
	s := Scan(msg)
	for s.Next() {
		if s.Type == Varint {
			fields[s.Num] = s.Uint
		}
	}
	return fields, s.Err
}

// EditAt edits all messages to which a path of fields leads.
func EditAt(msg []byte, path []protowire.Number, fn func([]byte) ([]byte, error)) ([]byte, error) {
	if len(path) == 0 {
		return fn(msg)
	}
	out := make([]byte, 0, len(msg)+16)
	s := Scan(msg)
	for s.Next() {
		if !s.Is(path[0], Bytes) {
			out = append(out, s.Raw...)
			continue
		}
		inner, err := EditAt(s.Bytes, path[1:], fn)
		if err != nil {
			return nil, err
		}
		out = AppendBytes(out, path[0], inner)
	}
	return out, s.Err
}
