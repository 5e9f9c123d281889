package sockdiag

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Unix is one unix socket that has a descriptor somewhere.
type Unix struct {
	Inode   uint32
	Type    uint8 // unix.SOCK_STREAM, SOCK_DGRAM or SOCK_SEQPACKET
	State   State
	Name    string   // path as bound, or "@name" for an abstract one; "" if unbound
	Peer    uint32   // inode of the other end, also if it is in another namespace
	Pending []uint32 // of a listener: inodes of the clients in its accept queue; 0 for one that closed
	RecvQ   uint32   // bytes to read; of a listener: length of the accept queue
	Ended   bool     // both directions are shut down, as when the peer has closed
	SendQ   uint32   // memory of what the peer has not read yet; of a listener: the queue's limit
}

// struct unix_diag_req and unix_diag_msg of include/uapi/linux/unix_diag.h.
const (
	unixReqLen = 24
	unixMsgLen = 16

	showName  = 0x01
	showVFS   = 0x02
	showPeer  = 0x04
	showIcons = 0x08
	showRqlen = 0x10

	attrName  = 0
	attrPeer  = 2
	attrIcons = 3
	attrRqlen = 4
	attrShut  = 6

	shutBoth = 3 // RCV_SHUTDOWN | SEND_SHUTDOWN
)

// Unix dumps the unix sockets of the namespace. A socket belongs to the
// namespace of the process that made it; one that accept(2) returns belongs to
// the connecting client's (net/unix/af_unix.c, unix_stream_connect). Needs the
// unix_diag module.
func (c *Conn) Unix() ([]Unix, error) {
	var out []Unix
	err := c.dumpUnix(0, func(msg []byte) {
		if s, ok := parseUnix(msg); ok {
			out = append(out, s)
		}
	})
	return out, err
}

// UnixMessages dumps the unix sockets that are wanted, as the kernel tells them:
// each a struct unix_diag_msg with its attributes. Like Unix otherwise.
func (c *Conn) UnixMessages(wanted func(inode uint32) bool) ([][]byte, error) {
	var out [][]byte
	err := c.dumpUnix(showVFS, func(msg []byte) {
		if len(msg) >= unixMsgLen && wanted(binary.NativeEndian.Uint32(msg[4:])) {
			out = append(out, slices.Clone(msg))
		}
	})
	return out, err
}

func (c *Conn) dumpUnix(more uint32, each func(msg []byte)) error {
	req := make([]byte, unixReqLen)
	req[0] = unix.AF_UNIX
	ne := binary.NativeEndian
	ne.PutUint32(req[4:], AllStates)
	ne.PutUint32(req[12:], showName|showPeer|showIcons|showRqlen|more)
	if err := c.dump(req, each); err != nil {
		return fmt.Errorf("dump unix sockets: %w", err)
	}
	return nil
}

func parseUnix(b []byte) (Unix, bool) {
	if len(b) < unixMsgLen {
		return Unix{}, false
	}
	ne := binary.NativeEndian
	s := Unix{Type: b[1], State: State(b[2]), Inode: ne.Uint32(b[4:])}
	attributes(b[unixMsgLen:], func(kind uint16, v []byte) {
		switch {
		case kind == attrName && len(v) > 0:
			s.Name = unixName(v)
		case kind == attrPeer && len(v) >= 4:
			s.Peer = ne.Uint32(v)
		case kind == attrIcons:
			for ; len(v) >= 4; v = v[4:] {
				s.Pending = append(s.Pending, ne.Uint32(v))
			}
		case kind == attrShut && len(v) > 0:
			s.Ended = v[0] == shutBoth
		case kind == attrRqlen && len(v) >= 8:
			s.RecvQ, s.SendQ = ne.Uint32(v), ne.Uint32(v[4:])
		}
	})
	return s, true
}

// unixName turns sun_path into text: a leading NUL, the mark of an abstract
// name, becomes "@", as ss(8) and /proc/net/unix show it.
func unixName(v []byte) string {
	if v[0] == 0 {
		return "@" + string(v[1:])
	}
	return strings.TrimRight(string(v), "\x00")
}
