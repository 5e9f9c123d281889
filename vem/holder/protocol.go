package holder

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// The protocol. A client connects (SOCK_SEQPACKET, so that a packet and its
// descriptors arrive together or not at all), sends one request, waits for the
// answer, and so on. Every packet is one JSON object. A Put comes in parts of at
// most batchItems descriptors; the holder stages them with the connection and
// commits with the last part, so that a client that dies in between leaves
// nothing. A Get is a series of requests with a cursor; the generation makes sure
// that all parts are of one Put. Neither side ever has more than one part in
// flight: the kernel limits descriptors in flight to RLIMIT_NOFILE for processes
// without CAP_SYS_ADMIN (net/unix/scm.c, too_many_unix_fds).
const (
	protocolVersion = 1

	batchItems = 240 // below SCM_MAX_FD (253)
	batchBytes = 48 << 10
	maxPacket  = 96 << 10
	maxFDs     = 253 // SCM_MAX_FD: what one packet can carry
)

type op string

const (
	opPut  op = "put"
	opGet  op = "get"
	opDrop op = "drop"
	opList op = "list"
)

type request struct {
	Version int         `json:"version"`
	Op      op          `json:"op"`
	App     string      `json:"app,omitempty"`   // list: the last one of the previous part
	Total   int         `json:"total,omitempty"` // put: descriptors in all parts
	Items   []wireItem  `json:"items,omitempty"` // put: this part
	More    continuance `json:"more,omitempty"`  // put: parts follow
	From    int         `json:"from,omitempty"`  // get: index of the first item wanted
	Gen     uint64      `json:"gen,omitempty"`   // get: generation of the first part
}

type response struct {
	Version int            `json:"version"`
	Code    code           `json:"code,omitempty"` // empty: done
	Message string         `json:"message,omitempty"`
	Items   []wireItem     `json:"items,omitempty"`
	More    continuance    `json:"more,omitempty"`
	Gen     uint64         `json:"gen,omitempty"`
	Apps    map[string]int `json:"apps,omitempty"`
}

type wireItem struct {
	Key  string          `json:"key"`
	Meta json.RawMessage `json:"meta,omitempty"`
}

// continuance tells whether more parts follow.
type continuance bool

type code string

const (
	codeNotFound code = "not_found"
	codeItem     code = "item"
	codeFull     code = "full"
	codeVersion  code = "version"
	codeChanged  code = "changed"
	codeProtocol code = "protocol"
)

// codes pairs the errors that cross the socket with their names there.
func codes() map[code]error {
	return map[code]error{
		codeNotFound: ErrNotFound,
		codeItem:     ErrItem,
		codeFull:     ErrFull,
		codeVersion:  ErrVersion,
		codeChanged:  ErrChanged,
		codeProtocol: ErrProtocol,
	}
}

// failure turns an error into an answer.
func failure(err error) response {
	r := response{Version: protocolVersion, Code: codeProtocol, Message: err.Error()}
	for c, sentinel := range codes() {
		if errors.Is(err, sentinel) {
			r.Code = c
		}
	}
	return r
}

// remoteError is an error that the holder answered.
type remoteError struct {
	message  string
	sentinel error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.sentinel }

// err turns an answer into an error.
func (r response) err() error {
	if r.Code == "" {
		return nil
	}
	sentinel, ok := codes()[r.Code]
	if !ok {
		sentinel = ErrProtocol
	}
	return &remoteError{message: r.Message, sentinel: sentinel}
}

// decodeRequest parses what a client sent. A request of another version is
// refused before anything else in it is looked at.
func decodeRequest(b []byte) (request, error) {
	var req request
	err := json.Unmarshal(b, &req)
	if err != nil { // another version's fields may have other types
		var v struct {
			Version int `json:"version"`
		}
		if json.Unmarshal(b, &v) != nil {
			return request{}, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		req.Version = v.Version
	}
	if req.Version != protocolVersion {
		return request{}, fmt.Errorf("%w: got %d, want %d", ErrVersion, req.Version, protocolVersion)
	}
	if err != nil {
		return request{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return req, nil
}

// decodeResponse parses what the holder answered, and turns a failure into an
// error.
func decodeResponse(b []byte) (response, error) {
	var resp response
	if err := json.Unmarshal(b, &resp); err != nil {
		return response{}, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	return resp, resp.err()
}

// encode makes a packet. It does not escape HTML, which would blow metas up.
func encode(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return nil, err
	}
	if b.Len() > maxPacket {
		return nil, fmt.Errorf("%w: packet of %d bytes, want at most %d", ErrItem, b.Len(), maxPacket)
	}
	return b.Bytes(), nil
}

// send writes one packet with its descriptors.
func send(conn *net.UnixConn, v any, fds []int) error {
	b, err := encode(v)
	if err != nil {
		return err
	}
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	if _, _, err := conn.WriteMsgUnix(b, oob, nil); err != nil {
		return fmt.Errorf("send packet: %w", err)
	}
	return nil
}

// reader reads packets into buffers that it uses again.
type reader struct {
	conn     *net.UnixConn
	buf, oob []byte
}

func newReader(conn *net.UnixConn) *reader {
	return &reader{conn: conn, buf: make([]byte, maxPacket+1), oob: make([]byte, unix.CmsgSpace(4*maxFDs))}
}

// errCut says that the kernel could not deliver all descriptors of a packet:
// this process is at its RLIMIT_NOFILE.
var errCut = errors.New("descriptors were cut off")

// next reads one packet; b is valid until the next call. The caller closes the
// descriptors, which are set also if there is an error.
func (r *reader) next() (b []byte, fds []int, err error) {
	n, oobn, flags, _, err := r.conn.ReadMsgUnix(r.buf, r.oob)
	if err != nil {
		return nil, nil, err
	}
	messages, err := unix.ParseSocketControlMessage(r.oob[:oobn])
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrProtocol, err)
	}
	for i := range messages {
		got, err := unix.ParseUnixRights(&messages[i])
		if errors.Is(err, unix.EINVAL) {
			continue // some other control message
		}
		if err != nil {
			return nil, fds, fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		fds = append(fds, got...)
	}
	switch {
	case flags&unix.MSG_CTRUNC != 0:
		return nil, fds, errCut
	case n > maxPacket || flags&unix.MSG_TRUNC != 0:
		return nil, fds, fmt.Errorf("%w: packet is too long", ErrProtocol)
	}
	return r.buf[:n], fds, nil
}

func closeFDs(fds []int) {
	for _, fd := range fds {
		unix.Close(fd) //nolint:errcheck // a duplicate that nothing was written to
	}
}
