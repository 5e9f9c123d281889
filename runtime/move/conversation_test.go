package move

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/control/message"
)

// line is a stream whose messages are those that were sent before.
type line struct {
	messages [][]byte
	end      error
}

func (l *line) Send(b []byte) error {
	l.messages = append(l.messages, bytes.Clone(b))
	return nil
}

func (l *line) Recv() ([]byte, error) {
	if len(l.messages) == 0 {
		return nil, l.end
	}
	b := l.messages[0]
	l.messages = l.messages[1:]
	return b, nil
}

func (l *line) CloseSend() error { return nil }
func (l *line) Close()           {}

func TestWhatIsSaidIsHeard(t *testing.T) {
	l := &line{end: io.EOF}
	c := conversation{l}
	large := bytes.Repeat([]byte("sockets "), message.MaxChunk/4)
	qt.Assert(t, qt.IsNil(c.say(said{Prepare: &prepare{Snapshot: "moving-x-1", Wake: true}})))
	qt.Assert(t, qt.IsNil(c.sayBytes(large)))
	qt.Assert(t, qt.IsNil(c.sayBytes(nil)))
	qt.Assert(t, qt.IsNil(c.say(said{})))
	for _, m := range l.messages {
		qt.Check(t, qt.IsTrue(len(m) <= message.MaxChunk))
	}
	m, err := c.hear()
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.IsNotNil(m.Prepare))
	qt.Check(t, qt.Equals(*m.Prepare, prepare{Snapshot: "moving-x-1", Wake: true}))
	b, err := c.hearBytes(uint64(len(large)))
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.IsTrue(bytes.Equal(b, large)))
	b, err = c.hearBytes(0)
	qt.Assert(t, qt.IsNil(err))
	qt.Check(t, qt.HasLen(b, 0))
	qt.Check(t, qt.IsNil(c.acknowledged()))
	_, err = c.hear()
	qt.Check(t, qt.ErrorIs(err, io.ErrUnexpectedEOF))
}

func TestMalformedIsRefused(t *testing.T) {
	size := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	for name, test := range map[string]struct {
		messages [][]byte
		want     error
	}{
		"no head":           {[][]byte{{1, 2, 3}}, errMalformed},
		"more than may be":  {[][]byte{size(maxMessage + 1)}, errMalformed},
		"more than it says": {[][]byte{size(2), []byte("{}}")}, errMalformed},
		"nothing":           {[][]byte{size(2), {}}, errMalformed},
		"no JSON":           {[][]byte{size(2), []byte("{{")}, errMalformed},
		"cut":               {[][]byte{size(9), []byte("{}")}, io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := conversation{&line{messages: test.messages, end: io.EOF}}.hear()
			qt.Check(t, qt.ErrorIs(err, test.want))
		})
	}
	c := conversation{&line{}}
	qt.Assert(t, qt.IsNil(c.say(said{Welcome: &welcome{}})))
	qt.Check(t, qt.ErrorIs(c.acknowledged(), errMalformed))
}

// An error of the other side is no end.
func TestBroken(t *testing.T) {
	broken := errors.New("broken")
	_, err := conversation{&line{end: broken}}.hear()
	qt.Check(t, qt.ErrorIs(err, broken))
}
