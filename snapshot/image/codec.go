package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// ErrRaw means that a file does not begin with a magic number. Memory
// pages and the output of other programs do not (pages-1.img,
// tmpfs-dev-60.tar.gz.img). It wraps [wire.ErrMalformed]: no other image may.
var ErrRaw = fmt.Errorf("raw image: %w", wire.ErrMalformed)

// A Record is one message of an image.
type Record struct {
	// Message is in protobuf wire format. The image's type tells which.
	Message []byte

	// Payload is what CRIU wrote after the message without saying so: the
	// bytes in a pipe, the queues of a connection. Nil for most types.
	Payload []byte
}

// An Image is one decoded image file.
type Image struct {
	Type Type

	Head Head

	Records []Record
}

// Head tells which magic number stands before the type.
type Head uint8

// The heads. The inventory is bare, and all images of CRIU before 1.6 are;
// others have the common head, files that only CRIU itself uses (stats) the
// service head.
const (
	HeadCommon Head = iota
	HeadBare
	HeadService
	HeadEmpty // nothing at all, not even a type: a file of no bytes
)

// Decode splits the content of an image file into records. The records share
// memory with data.
//
// It returns an error wrapping [ErrRaw] if data does not begin with a magic
// number of CRIU, and one wrapping [wire.ErrMalformed] if the records do not fill
// data exactly. It looks at a message only to learn the length of a payload.
func Decode(data []byte) (*Image, error) {
	img, rest, err := decodeHead(data)
	if err != nil || len(rest) == 0 {
		return img, err
	}
	img.Records = make([]Record, 0, guessRecords(rest))
	pay := payloads{typ: img.Type}
	for off := len(data) - len(rest); off < len(data); {
		rec, n, err := decodeRecord(data[off:], &pay)
		if err != nil {
			return nil, fmt.Errorf("decode %s record %d at offset %d: %w", img.Type, len(img.Records), off, err)
		}
		img.Records = append(img.Records, rec)
		off += n
	}
	return img, nil
}

// guessRecords counts records as if none had a payload. Where some have, it is
// no more than a number that fits in data.
func guessRecords(data []byte) int {
	n := 0
	for len(data) >= 4 {
		size := uint64(binary.LittleEndian.Uint32(data))
		data = data[4:]
		data = data[min(size, uint64(len(data))):]
		n++
	}
	return n
}

// decodeHead reads the magic numbers and returns what follows them.
func decodeHead(data []byte) (*Image, []byte, error) {
	if len(data) == 0 {
		return &Image{Head: HeadEmpty}, nil, nil
	}
	if len(data) < 4 {
		return nil, nil, fmt.Errorf("read magic: %w: only %d bytes", ErrRaw, len(data))
	}
	img := &Image{Head: HeadBare}
	magic := binary.LittleEndian.Uint32(data)
	data = data[4:]
	switch magic {
	case magicCommon:
		img.Head = HeadCommon
	case magicService:
		img.Head = HeadService
	}
	if img.Head != HeadBare {
		if len(data) < 4 {
			return nil, nil, fmt.Errorf("read second magic: %w: only %d bytes", wire.ErrMalformed, len(data))
		}
		img.Type = Type(binary.LittleEndian.Uint32(data))
		return img, data[4:], nil
	}
	// Without the common magic only a number that is known tells an image
	// from raw bytes.
	if img.Type = Type(magic); !img.Type.known() {
		return nil, nil, fmt.Errorf("read magic: %w: begins with %#08x", ErrRaw, magic)
	}
	return img, data, nil
}

// decodeRecord reads one record and returns its whole length.
func decodeRecord(data []byte, pay *payloads) (Record, int, error) {
	if len(data) < 4 {
		return Record{}, 0, fmt.Errorf("read length: %w: only %d bytes left", wire.ErrMalformed, len(data))
	}
	size := uint64(binary.LittleEndian.Uint32(data))
	if size > uint64(len(data)-4) {
		return Record{}, 0, fmt.Errorf("read message: %w: %d bytes, only %d left", wire.ErrMalformed, size, len(data)-4)
	}
	n := 4 + int(size)
	rec := Record{Message: data[4:n:n]}
	extra, err := pay.size(rec.Message)
	if err != nil {
		return Record{}, 0, err
	}
	if extra == wholeRest {
		extra = uint64(len(data) - n)
	}
	if extra > uint64(len(data)-n) {
		return Record{}, 0, fmt.Errorf("read payload: %w: %d bytes, only %d left", wire.ErrMalformed, extra, len(data)-n)
	}
	if extra > 0 {
		end := n + int(extra)
		rec.Payload = data[n:end:end]
		n = end
	}
	return rec, n, nil
}

// Encode is the inverse of [Decode].
func (img *Image) Encode() []byte {
	if img.Head == HeadEmpty {
		return nil
	}
	size := 8
	for _, rec := range img.Records {
		size += 4 + len(rec.Message) + len(rec.Payload)
	}
	dst := img.appendHead(slices.Grow([]byte(nil), size))
	for _, rec := range img.Records {
		dst = appendRecord(dst, rec)
	}
	return dst
}

func (img *Image) appendHead(dst []byte) []byte {
	switch img.Head {
	case HeadCommon:
		dst = binary.LittleEndian.AppendUint32(dst, magicCommon)
	case HeadService:
		dst = binary.LittleEndian.AppendUint32(dst, magicService)
	case HeadBare:
	case HeadEmpty:
		return dst
	}
	return binary.LittleEndian.AppendUint32(dst, uint32(img.Type))
}

func appendRecord(dst []byte, rec Record) []byte {
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(rec.Message)))
	dst = append(dst, rec.Message...)
	return append(dst, rec.Payload...)
}

// DecodeAs is [Decode] for an image that must be of a type, or be empty.
func DecodeAs(want Type, data []byte) (*Image, error) {
	img, err := Decode(data)
	if err != nil {
		return nil, err
	}
	if img.Type != want && img.Head != HeadEmpty {
		return nil, fmt.Errorf("%w: it is of type %s", wire.ErrMalformed, img.Type)
	}
	return img, nil
}

// ErrInconsistent means that images can be parsed, but contradict each other:
// one refers to something that no other has, or a size does not fit.
var ErrInconsistent = errors.New("inconsistent images")
