package cargo

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/vem/control/message"
)

const (
	pageBytes = 4 << 10
	// pieceBytes is how much of a file is read, and compressed, at a time: what fits into a message with its head.
	pieceBytes = message.MaxChunk - pageBytes
	// leastPacked is what is not worth compressing if it is less. Of less than 256 bytes zstd.Encoder does not say how
	// many they are (klauspost/compress v1.20.1, zstd/frameenc.go), and whoever unpacks them wants to know that first.
	leastPacked = 512
	// writebackBytes is after how much the kernel begins to write to the disk, so that little is left for the end.
	writebackBytes = 8 << 20
)

var zeros [pageBytes]byte //nolint:gochecknoglobals // a constant

// dull tells whether it is worth while to try to compress: after each piece that did not shrink, twice
// as many are left alone.
type dull struct{ skip, next int }

func (d *dull) try() bool {
	if d.skip > 0 {
		d.skip--
		return false
	}
	return true
}

func (d *dull) tried(shrank bool) {
	if shrank {
		d.next = 0
		return
	}
	d.next = min(max(1, 2*d.next), 64)
	d.skip = d.next
}

// putData sends a piece of a file.
func (l *link) putData(ctx context.Context, at int64, b []byte) error {
	flags, body := byte(0), b
	if len(b) >= leastPacked && l.dull.try() {
		packed := l.pack.EncodeAll(b, make([]byte, 0, len(b)))
		shrank := len(packed) < len(b)-len(b)/8
		if l.dull.tried(shrank); shrank {
			flags, body = flagPacked, packed
		}
	}
	out := binary.AppendUvarint(l.head(kindData, flags), uint64(at)) //nolint:gosec // not negative
	return l.send(ctx, append(out, body...))
}

// takeData reads a piece: its place, and its bytes.
func (l *link) takeData(b []byte) (at int64, data []byte, err error) {
	flags := b[0]
	off, n := binary.Uvarint(b[1:])
	if n <= 0 || off > mostBytes || flags&^flagPacked != 0 {
		return 0, nil, malformed("the head of a piece")
	}
	data = b[1+n:]
	if flags&flagPacked != 0 {
		if data, err = l.unpackAll(data, pieceBytes); err != nil {
			return 0, nil, err
		}
	}
	if len(data) == 0 || len(data) > pieceBytes {
		return 0, nil, malformed("a piece of %d bytes", len(data))
	}
	return int64(off), data, nil //nolint:gosec // at most mostBytes
}

// eachPiece calls put for all of a file but holes and pages of zeros.
func eachPiece(ctx context.Context, f *os.File, size int64, put func(at int64, b []byte) error) error {
	buf := make([]byte, pieceBytes)
	for at := int64(0); at < size; {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, hole, err := nextData(f, at, size)
		if err != nil {
			return fmt.Errorf("read %s: %w", f.Name(), err)
		}
		for at = data; at < hole; {
			n, err := f.ReadAt(buf[:min(int64(len(buf)), hole-at)], at)
			if n == 0 {
				if err == nil || errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				return fmt.Errorf("read %s: %w", f.Name(), err)
			}
			if err := putPages(at, buf[:n], put); err != nil {
				return err
			}
			at += int64(n)
		}
	}
	return nil
}

// nextData finds the next data from a place on, and the hole after it; both are size if there is none. A file
// system that knows no holes has data everywhere (lseek(2)).
func nextData(f *os.File, at, size int64) (data, hole int64, err error) {
	if data, err = f.Seek(at, unix.SEEK_DATA); errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if err != nil {
		return 0, 0, err
	}
	if hole, err = f.Seek(data, unix.SEEK_HOLE); err != nil {
		return 0, 0, err
	}
	// A hole may begin in the middle of a page of the file.
	return min(data, size), min(hole, size), nil
}

// putPages calls put for the runs of pages that are not all zeros.
func putPages(at int64, b []byte, put func(at int64, b []byte) error) error {
	from := 0
	flush := func(to int) error {
		if from == to {
			return nil
		}
		return put(at+int64(from), b[from:to])
	}
	for page := 0; page < len(b); page += pageBytes {
		end := min(page+pageBytes, len(b))
		if bytes.Equal(b[page:end], zeros[:end-page]) {
			if err := flush(page); err != nil {
				return err
			}
			from = end
		}
	}
	return flush(len(b))
}

// sink is a file that is being received. Its pieces come in their order.
type sink struct {
	file    *os.File
	size    int64
	at      int64 // the end of the last piece
	flushed int64 // what the kernel was told to write
	// volatile is a file that need not reach the disk.
	volatile bool
}

// write writes a piece, and returns how far the file has come since the last one.
func (s *sink) write(at int64, b []byte) (int64, error) {
	if at < s.at || at+int64(len(b)) > s.size {
		return 0, malformed("a piece that is not in its file")
	}
	if _, err := s.file.WriteAt(b, at); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	came := at + int64(len(b)) - s.at
	s.at += came
	if !s.volatile && s.at-s.flushed >= writebackBytes {
		_ = unix.SyncFileRange(int(s.file.Fd()), s.flushed, s.at-s.flushed, unix.SYNC_FILE_RANGE_WRITE) // fsync tells
		s.flushed = s.at
	}
	return came, nil
}

// rest is what of the file has not come: a hole.
func (s *sink) rest() int64 { return s.size - s.at }
