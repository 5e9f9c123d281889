package cargo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/time/rate"

	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/tree"
	"github.com/snapctl/snapctl/vem/control/message"
)

// version is that of what is said here.
const version = 1

// kind is what a message is, its first byte. What is not data is JSON, in one or more messages.
type kind byte

const (
	kindOffer kind = 'o'
	kindWant  kind = 'w'
	kindPlan  kind = 'p'
	kindGo    kind = 'g'
	kindItem  kind = 'i' // of what the following messages are
	kindEntry kind = 'e' // a file of a tree; its data follows
	kindData  kind = 'd' // a piece of the file
	kindEnd   kind = 'z' // everything was sent
	kindDone  kind = 'k' // and is there
	kindFail  kind = 'f' // see failure
)

// limitOf is how large a message of a kind may be when its parts are put together and it is
// decompressed. A manifest has a line for each file.
func limitOf(k kind) int {
	switch k {
	case kindOffer:
		return 64 << 20
	case kindWant, kindEntry:
		return 4 << 20
	case kindPlan, kindGo, kindItem, kindEnd, kindDone, kindFail:
		return 64 << 10
	case kindData:
	}
	return 0
}

// offer is what the source has.
type offer struct {
	Version  int             `json:"version"`
	Manifest json.RawMessage `json:"manifest"`
	Contents []memory.ID     `json:"contents"` // of the manifest's layers
	Features []string        `json:"features,omitempty"`
}

// want is what the target lacks: memory files and kept files by their names, layers by their contents.
type want struct {
	Memory   []memory.ID `json:"memory"`
	Files    []memory.ID `json:"files"`
	Contents []memory.ID `json:"contents"`
}

// plan is how much the source is going to send.
type plan struct {
	Bytes int64 `json:"bytes"`
	Files int   `json:"files"`
	Room  room  `json:"room"`
}

// room is how many bytes files take on the disk, by the store that they go to.
type room struct {
	Memory   int64 `json:"memory"`
	Layers   int64 `json:"layers"`
	Files    int64 `json:"files"`
	Snapshot int64 `json:"snapshot"` // what is the snapshot's own
}

// item begins a memory file, a kept file or a tree. At most one field is set; if none is, the
// snapshot's own directory follows.
type item struct {
	Memory  memory.ID `json:"memory,omitempty"`
	File    memory.ID `json:"file,omitempty"`
	Content memory.ID `json:"content,omitempty"`
	// Seconds and Nanoseconds are when a kept file was modified.
	Seconds     int64 `json:"mtime_s,omitempty"`
	Nanoseconds int64 `json:"mtime_ns,omitempty"`
}

// done is that the target has everything.
type done struct {
	Notes []string `json:"notes,omitempty"`
}

// mostNotes is how many notes a source listens to.
const mostNotes = 32

// notes are what of the notes is fit to be shown.
func (d *done) notes() []string {
	d.Notes = d.Notes[:min(len(d.Notes), mostNotes)]
	for i, n := range d.Notes {
		d.Notes[i] = short(n)
	}
	return d.Notes
}

// Flags of the second byte of a message.
const (
	flagMore byte = 1 << iota // a part of a message, which goes on
	flagPacked
)

const headBytes = 2

// link says messages on a stream. One goroutine may put while another one gets.
type link struct {
	stream Stream
	peer   string // the other host, or ""
	pack   *zstd.Encoder
	unpack *zstd.Decoder
	limit  *rate.Limiter // nil: none
	out    []byte        // of a message that is sent
	dull   dull
	sent   int64 // bytes
	got    int64
}

// newLink returns a link that sends so many bytes a second at most; 0: any number.
func newLink(s Stream, bandwidth int64, peer string) (*link, error) {
	l := &link{stream: s, peer: peer}
	if bandwidth > 0 {
		burst := max(int(min(bandwidth/10, 1<<30)), message.MaxChunk)
		l.limit = rate.NewLimiter(rate.Limit(bandwidth), burst)
	}
	var err error
	l.pack, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithEncoderCRC(false))
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	l.unpack, err = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(uint64(limitOf(kindOffer))))
	if err != nil {
		return nil, fmt.Errorf("decompress: %w", err)
	}
	return l, nil
}

// close lets go of what the link needs, and not of the stream.
func (l *link) close() {
	_ = l.pack.Close() // it writes to nothing
	l.unpack.Close()
}

// put sends a message that is no data.
func (l *link) put(ctx context.Context, k kind, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if len(b) > limitOf(k) {
		return fmt.Errorf("%w: a message of %d bytes, and %d is the most", ErrTooMuch, len(b), limitOf(k))
	}
	flags := byte(0)
	if len(b) > 1<<10 {
		b, flags = l.pack.EncodeAll(b, nil), flagPacked
	}
	for {
		part := b[:min(len(b), message.MaxChunk-headBytes)]
		b = b[len(part):]
		if len(b) == 0 {
			return l.send(ctx, append(l.head(k, flags), part...))
		}
		if err := l.send(ctx, append(l.head(k, flags|flagMore), part...)); err != nil {
			return err
		}
	}
}

// head begins a message.
func (l *link) head(k kind, flags byte) []byte { return append(l.out[:0], byte(k), flags) }

func (l *link) send(ctx context.Context, b []byte) error {
	l.out = b
	if l.limit != nil {
		if err := l.limit.WaitN(ctx, len(b)); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	l.sent += int64(len(b))
	if err := l.stream.Send(b); err != nil {
		return &streamError{err}
	}
	return nil
}

// streamError is an error of the stream.
type streamError struct{ error }

func (e *streamError) Unwrap() error { return e.error }

// broken tells whether an error is that the stream can't be used any more.
func broken(err error) bool {
	_, ok := errors.AsType[*streamError](err)
	return ok
}

// instead returns the error that the other side has said, if the stream broke since it had one.
func (l *link) instead(err error) error {
	for broken(err) {
		k, b, gerr := l.get()
		if gerr != nil {
			break
		}
		if k == kindFail {
			return l.failureIn(b)
		}
	}
	return err
}

// partingTime is how long it is waited that the other side ends the stream, too.
const partingTime = 5 * time.Second

// hurry closes the stream if the other side does not end it soon. The caller calls stop.
func (l *link) hurry() (stop func() bool) {
	return time.AfterFunc(partingTime, l.stream.Close).Stop
}

// part ends the stream from this side, and waits until the other side has read everything.
func (l *link) part() {
	defer l.hurry()()
	if l.stream.CloseSend() != nil {
		return
	}
	for {
		if _, err := l.stream.Recv(); err != nil {
			return
		}
	}
}

// fail ends the stream because of an error, of which the other side is told unless it comes from there.
// It returns the error.
func (l *link) fail(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil: // and so the stream is closed
		if broken(err) || errors.Is(err, ctx.Err()) {
			err = nil
		}
		return errors.Join(context.Cause(ctx), err)
	case said(err):
		_ = l.stream.CloseSend() // the other side ends it, too
	case !broken(err):
		if l.put(ctx, kindFail, failureOf(err)) == nil {
			l.part()
		}
	}
	return err
}

// get returns the next message: of data as it came, of others the JSON.
func (l *link) get() (kind, []byte, error) {
	var whole []byte
	var is kind
	for first := true; ; first = false {
		b, err := l.stream.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = ErrCut
			}
			return 0, nil, &streamError{err}
		}
		l.got += int64(len(b))
		if len(b) < headBytes {
			return 0, nil, malformed("a message of %d bytes", len(b))
		}
		k, flags := kind(b[0]), b[1]
		switch {
		case first && k == kindData:
			return k, b[1:], nil
		case first && limitOf(k) == 0:
			return 0, nil, malformed("a message of kind %q", byte(k))
		case !first && k != is:
			return 0, nil, malformed("a message of kind %q in the middle of one of kind %q", byte(k), byte(is))
		case flags&^(flagMore|flagPacked) != 0:
			return 0, nil, malformed("flags %#x", flags)
		}
		is = k
		if len(whole)+len(b) > limitOf(k) {
			return 0, nil, malformed("a message of kind %q with more than %d bytes", byte(k), limitOf(k))
		}
		whole = append(whole, b[headBytes:]...)
		if flags&flagMore != 0 {
			continue
		}
		if flags&flagPacked != 0 {
			if whole, err = l.unpackAll(whole, limitOf(k)); err != nil {
				return 0, nil, err
			}
		}
		return k, whole, nil
	}
}

// unpackAll decompresses what may have so many bytes.
func (l *link) unpackAll(b []byte, most int) ([]byte, error) {
	var h zstd.Header
	if err := h.Decode(b); err != nil || !h.HasFCS || h.FrameContentSize > uint64(most) {
		return nil, malformed("what is compressed is too large")
	}
	out, err := l.unpack.DecodeAll(b, make([]byte, 0, h.FrameContentSize))
	if err != nil || len(out) > most {
		return nil, malformed("it can't be decompressed")
	}
	return out, nil
}

// read is get for one kind of message. A failure of the other side is an error.
func read[T any](l *link, k kind, to *T) error {
	got, b, err := l.get()
	if err != nil {
		return err
	}
	return decode(l, got, b, k, to)
}

// decode reads a message, which is to be of kind k.
func decode[T any](l *link, got kind, b []byte, k kind, to *T) error {
	if got == kindFail {
		return l.failureIn(b)
	}
	if got != k {
		return malformed("a message of kind %q where one of kind %q belongs", byte(got), byte(k))
	}
	if err := json.Unmarshal(b, to); err != nil {
		return malformed("%v", err)
	}
	return nil
}

// malformed is an error that says what the other side sends that makes no sense.
func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: the other host sends what makes no sense: %s", tree.ErrDamaged, fmt.Sprintf(format, args...))
}
