package move

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/compat"
	"github.com/snapctl/snapctl/vem/control/message"
	"github.com/snapctl/snapctl/vem/directory"
)

// StreamKind is the kind of the streams over which two hosts move an app.
const StreamKind = "move"

// version is that of the messages below. A host refuses another one.
const version = 1

// Stream is a stream of the control channel.
type Stream interface {
	Send(b []byte) error
	Recv() ([]byte, error)
	CloseSend() error
	Close()
}

const (
	// maxMessage bounds a message that is not the sockets.
	maxMessage = 4 << 20
	// lengthBytes is how long the head is that says how many bytes follow.
	lengthBytes = 8
)

// said is one message. One of its fields is set, or none: that is an acknowledgement.
type said struct {
	Offer   *offer   `json:"offer,omitempty"`
	Welcome *welcome `json:"welcome,omitempty"`
	Prepare *prepare `json:"prepare,omitempty"`
	Arrived *arrived `json:"arrived,omitempty"`
}

// offer asks whether an app can come.
type offer struct {
	Version int `json:"version"`
	// Journey begins the names of the snapshots that are sent for this move, see [nameOf].
	Journey  string             `json:"journey"`
	Record   app.Record         `json:"record"`
	Endpoint directory.Endpoint `json:"endpoint"` // as the host has it that offers it
	Host     compat.Host        `json:"host"`
	Force    bool               `json:"force,omitempty"` // although the target's processor lacks features
	// SharedBinds promises that what the app has from the host is the same on the target.
	SharedBinds bool `json:"shared_binds,omitempty"`
	// Ended is of an app that is stopped; nil: it has processes, or sleeps.
	Ended *exited `json:"ended,omitempty"`
}

// exited is what is to be known of an app that is stopped.
type exited struct {
	Exit string `json:"exit"`
}

// welcome says that it can, and what is to be known of it.
type welcome struct {
	Notes []string `json:"notes,omitempty"`
}

// prepare has the target make the app, of a snapshot that it was sent.
type prepare struct {
	Snapshot string             `json:"snapshot"`
	Endpoint directory.Endpoint `json:"endpoint"` // which is moving to the target
	Wake     bool               `json:"wake,omitempty"`
	// Volatile tells that it ran before it was to move, see [app.State].
	Volatile bool `json:"volatile,omitempty"`
}

// arrived says that the target has the app.
type arrived struct {
	// Opened is how long after the sockets came they could talk.
	Opened time.Duration `json:"opened"`
	// Woken is how long after that the processes ran; 0 if they do not.
	Woken time.Duration `json:"woken,omitempty"`
	// Trouble is why they do not run, if they should.
	Trouble string   `json:"trouble,omitempty"`
	Notes   []string `json:"notes,omitempty"`
}

// conversation is what two hosts say of one move.
type conversation struct{ Stream }

func (c conversation) say(m said) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return c.sayBytes(b)
}

// sayBytes says as many bytes as there are: their number first, and then them, in as many messages of the
// stream as it takes.
func (c conversation) sayBytes(b []byte) error {
	if err := c.Send(binary.BigEndian.AppendUint64(nil, uint64(len(b)))); err != nil {
		return err
	}
	for len(b) > 0 {
		n := min(len(b), message.MaxChunk)
		if err := c.Send(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// errMalformed is a message of another host that is none.
var errMalformed = errors.New("malformed message of a move")

func (c conversation) hear() (m said, err error) {
	b, err := c.hearBytes(maxMessage)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("%w: %w", errMalformed, err)
	}
	return m, nil
}

// hearBytes returns what sayBytes said on the other side, of at most limit bytes. No more memory is used than
// has come.
func (c conversation) hearBytes(limit uint64) ([]byte, error) {
	head, err := c.Recv()
	if err != nil {
		return nil, ended(err)
	}
	if len(head) != lengthBytes {
		return nil, fmt.Errorf("%w: a head of %d bytes", errMalformed, len(head))
	}
	size := binary.BigEndian.Uint64(head)
	if size > limit {
		return nil, fmt.Errorf("%w: it has %d bytes, and may have %d", errMalformed, size, limit)
	}
	var all []byte
	for uint64(len(all)) < size {
		b, err := c.Recv()
		if err != nil {
			return nil, ended(err)
		}
		if len(b) == 0 || uint64(len(all)+len(b)) > size {
			return nil, fmt.Errorf("%w: %d bytes instead of %d", errMalformed, len(all)+len(b), size)
		}
		all = append(all, b...)
	}
	return all, nil
}

// ended is a stream that has ended where a message was to come.
func ended(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// acknowledged waits for an acknowledgement.
func (c conversation) acknowledged() error {
	m, err := c.hear()
	if err == nil && m != (said{}) {
		err = fmt.Errorf("%w: something else than an acknowledgement", errMalformed)
	}
	return err
}
