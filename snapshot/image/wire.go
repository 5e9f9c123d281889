package image

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

// Short names for the two wire types that nearly all fields of CRIU have.
const (
	varint          = protowire.VarintType
	lengthDelimited = protowire.BytesType
)

// A scanner walks over the top-level fields of one protobuf message without
// copying. It is used as bufio.Scanner is.
type scanner struct {
	rest []byte
	err  error

	num protowire.Number
	typ protowire.Type
	raw []byte // tag and value
	val uint64 // of a varint or fixed field
	buf []byte // of a length-delimited field
}

func scan(msg []byte) scanner { return scanner{rest: msg} }

// next moves to the next field. It returns false at the end and on an error,
// which is then in s.err.
func (s *scanner) next() bool {
	if len(s.rest) == 0 || s.err != nil {
		return false
	}
	num, typ, n := protowire.ConsumeTag(s.rest)
	if n < 0 {
		return s.fail(n)
	}
	value := s.rest[n:]
	var m int
	s.val, s.buf = 0, nil
	switch typ {
	case protowire.VarintType:
		s.val, m = protowire.ConsumeVarint(value)
	case protowire.BytesType:
		s.buf, m = protowire.ConsumeBytes(value)
	case protowire.Fixed64Type:
		s.val, m = protowire.ConsumeFixed64(value)
	case protowire.Fixed32Type:
		var v uint32
		v, m = protowire.ConsumeFixed32(value)
		s.val = uint64(v)
	case protowire.StartGroupType, protowire.EndGroupType:
		m = protowire.ConsumeFieldValue(num, typ, value)
	default:
		m = protowire.ConsumeFieldValue(num, typ, value)
	}
	if m < 0 {
		return s.fail(m)
	}
	s.num, s.typ, s.raw = num, typ, s.rest[:n+m]
	s.rest = s.rest[n+m:]
	return true
}

func (s *scanner) fail(code int) bool {
	s.err = fmt.Errorf("parse message: %w: %w", ErrMalformed, protowire.ParseError(code))
	return false
}

// is tells whether the field at hand has this number and wire type.
func (s *scanner) is(num protowire.Number, typ protowire.Type) bool {
	return s.num == num && s.typ == typ
}

// appendVarint appends a varint field.
func appendVarint(dst []byte, num protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, num, varint), v)
}

// appendBytes appends a length-delimited field.
func appendBytes(dst []byte, num protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, num, lengthDelimited), v)
}

// setVarint appends msg to dst with the value of its varint field num changed.
// All else stays as it is; a message without the field stays whole.
func setVarint(dst, msg []byte, num protowire.Number, v uint64) ([]byte, error) {
	s := scan(msg)
	for s.next() {
		if s.is(num, varint) {
			dst = appendVarint(dst, num, v)
		} else {
			dst = append(dst, s.raw...)
		}
	}
	return dst, s.err
}

// replaceVarints sets varint fields, whether they were there or not, and drops
// others. All else stays as it is.
func replaceVarints(msg []byte, set map[protowire.Number]uint64, drop ...protowire.Number) ([]byte, error) {
	out := make([]byte, 0, len(msg)+16)
	s := scan(msg)
	for s.next() {
		_, ok := set[s.num]
		if s.typ != varint || !ok && !slices.Contains(drop, s.num) {
			out = append(out, s.raw...)
		}
	}
	for _, num := range slices.Sorted(maps.Keys(set)) {
		out = appendVarint(out, num, set[num])
	}
	return out, s.err
}

// varints reads the varint fields of a message.
func varints(msg []byte) (map[protowire.Number]uint64, error) {
	fields := make(map[protowire.Number]uint64)
	s := scan(msg)
	for s.next() {
		if s.typ == varint {
			fields[s.num] = s.val
		}
	}
	return fields, s.err
}

// editAt edits all messages to which a path of fields leads.
func editAt(msg []byte, path []protowire.Number, fn func([]byte) ([]byte, error)) ([]byte, error) {
	if len(path) == 0 {
		return fn(msg)
	}
	out := make([]byte, 0, len(msg)+16)
	s := scan(msg)
	for s.next() {
		if !s.is(path[0], lengthDelimited) {
			out = append(out, s.raw...)
			continue
		}
		inner, err := editAt(s.buf, path[1:], fn)
		if err != nil {
			return nil, err
		}
		out = appendBytes(out, path[0], inner)
	}
	return out, s.err
}
