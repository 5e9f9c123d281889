package image

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// maxMessage bounds one message. The largest that CRIU writes describe the
// mappings of a process (some 60 bytes each, 65530 by default) and all seccomp
// filters; a decoded message may take some 50 times its size.
const maxMessage = 16 << 20

// walk calls fn for each record of an image, with the length of its payload.
// The message is only valid until fn returns. In contrast to [Decode] it reads
// no payload, so that a file of any size costs no more than its messages.
//
// r must be at its start and hold size bytes.
func walk(r io.ReadSeeker, size int64, fn func(t Type, msg []byte, payload uint64) error) (Type, error) {
	br := bufio.NewReader(r)
	head, err := br.Peek(int(min(size, 8)))
	if err != nil {
		return 0, fmt.Errorf("read magic: %w", err)
	}
	img, rest, err := decodeHead(head)
	if err != nil {
		return 0, err
	}
	w := walker{r: r, br: br, left: size, pay: payloads{typ: img.Type}}
	if err := w.skip(uint64(len(head) - len(rest))); err != nil {
		return img.Type, err
	}
	for n := 0; w.left > 0; n++ {
		msg, payload, err := w.next()
		if err == nil && fn != nil {
			err = fn(img.Type, msg, payload)
		}
		if err == nil {
			err = w.skip(payload)
		}
		if err != nil {
			return img.Type, fmt.Errorf("read %s record %d: %w", img.Type, n, err)
		}
	}
	return img.Type, nil
}

type walker struct {
	r    io.ReadSeeker
	br   *bufio.Reader
	left int64 // of the file
	pay  payloads

	// For the record at hand.
	length [4]byte
	msg    []byte
}

func (w *walker) next() (msg []byte, payload uint64, err error) {
	if w.left < 4 {
		return nil, 0, fmt.Errorf("read length: %w: only %d bytes left", wire.ErrMalformed, w.left)
	}
	if _, err := io.ReadFull(w.br, w.length[:]); err != nil {
		return nil, 0, fmt.Errorf("read length: %w", err)
	}
	w.left -= 4
	size := int64(binary.LittleEndian.Uint32(w.length[:]))
	if size > w.left || size > maxMessage {
		return nil, 0, fmt.Errorf("read message: %w: %d bytes, only %d left", wire.ErrMalformed, size, min(w.left, maxMessage))
	}
	if int64(cap(w.msg)) < size {
		w.msg = make([]byte, size)
	}
	w.msg = w.msg[:size]
	if _, err := io.ReadFull(w.br, w.msg); err != nil {
		return nil, 0, fmt.Errorf("read message: %w", err)
	}
	w.left -= size
	if payload, err = w.pay.size(w.msg); err != nil {
		return nil, 0, err
	}
	if payload == wholeRest {
		payload = uint64(w.left)
	}
	if payload > uint64(w.left) {
		return nil, 0, fmt.Errorf("read payload: %w: %d bytes, only %d left", wire.ErrMalformed, payload, w.left)
	}
	return w.msg, payload, nil
}

// skip moves on by n bytes, which are known to be there.
func (w *walker) skip(n uint64) error {
	w.left -= int64(n)
	if n <= uint64(w.br.Buffered()) {
		_, err := w.br.Discard(int(n))
		return err
	}
	if _, err := w.r.Seek(int64(n)-int64(w.br.Buffered()), io.SeekCurrent); err != nil {
		return fmt.Errorf("skip payload: %w", err)
	}
	w.br.Reset(w.r)
	return nil
}

// WalkFile is walk for a file by name.
func WalkFile(fsys fs.FS, name string, fn func(t Type, msg []byte, payload uint64) error) (_ Type, err error) {
	f, err := fsys.Open(name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	r, ok := f.(io.ReadSeeker)
	if !ok || !st.Mode().IsRegular() {
		return 0, fmt.Errorf("read %s: %w: not a regular file", name, wire.ErrMalformed)
	}
	t, err := walk(r, st.Size(), fn)
	if err != nil {
		return t, fmt.Errorf("read %s: %w", name, err)
	}
	return t, nil
}
