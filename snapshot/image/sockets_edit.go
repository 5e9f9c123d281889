package image

import (
	"fmt"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"
)

// openFile is what an edit needs to know about a file_entry.
type openFile struct {
	kind uint64
	id   uint32
	body []byte // the entry of its kind, for the kinds that matter here

	inode uint64 // of a socket
	flags uint64 // of a socket: open(2) flags
	fown  []byte // of a socket: fown_entry
	peer  uint64 // of a unix socket: inode of its peer
	extra uint64 // of a unix socket: uflags
}

// Fields of the messages that are edited (images/*.proto).
const (
	fileEntryType    = 1
	fileEntryID      = 2
	fileEntryReg     = 3
	fileEntryInet    = 4
	fileEntryEventfd = 8
	fileEntryInotify = 13
	fileEntryUnix    = 16

	regID    = 1
	regFlags = 2
	regPos   = 3
	regFown  = 5
	regName  = 6

	fdinfoID   = 1
	fdinfoType = 3

	packetFor = 1
)

// files turns the held sockets among file_entry records into regular files.
func (e *socketEdit) files(records []Record) ([]Record, error) {
	edited := slices.Clone(records)
	// One block of memory for all new messages: 5000 small ones would cost
	// more than everything else here.
	block := make([]byte, 0, len(e.keys)*96)
	var scratch []byte
	for i, rec := range records {
		file, err := parseOpenFile(rec.Message)
		if err != nil {
			return nil, fmt.Errorf("read file %d: %w", i, err)
		}
		switch file.kind {
		case fileReg:
			if err := e.checkName(file); err != nil {
				return nil, err
			}
		case fileInetSk, fileUnixSk:
			key, held := e.keys[file.inode]
			if file.kind == fileUnixSk {
				e.unix = append(e.unix, unixPeer{file.inode, file.peer, file.extra&fileUnixExternal != 0})
			}
			if !held {
				continue
			}
			start := len(block)
			scratch = appendReg(scratch[:0], file, key)
			block, err = appendAsReg(block, rec.Message, scratch)
			if err != nil {
				return nil, fmt.Errorf("edit file %#x: %w", file.id, err)
			}
			edited[i].Message = block[start:len(block):len(block)]
			e.ids[file.id] = len(e.done)
			e.done = append(e.done, Replaced{Inode: file.inode, Key: key, File: file.id})
		}
	}
	if err := e.checkPeers(); err != nil {
		return nil, err
	}
	if len(e.done) == 0 {
		return nil, nil
	}
	return edited, nil
}

// checkName makes sure that CRIU will not take a file for a held socket.
func (e *socketEdit) checkName(file openFile) error {
	s := scan(file.body)
	for s.next() {
		if !s.is(regName, lengthDelimited) || len(s.buf) == 0 {
			continue
		}
		if _, ok := e.taken[string(s.buf[1:])]; ok {
			return fmt.Errorf("%w: %q is the name of file %#x", ErrKey, s.buf[1:], file.id)
		}
	}
	return s.err
}

// checkPeers refuses to replace one of two connected unix sockets and not the other. A
// peer outside of the dump does not count: it is alive, and stays connected.
func (e *socketEdit) checkPeers() error {
	inside := make(map[uint64]struct{}, len(e.unix))
	for _, sk := range e.unix {
		if !sk.external {
			inside[sk.inode] = struct{}{}
		}
	}
	for _, sk := range e.unix {
		if sk.external || sk.peer == 0 {
			continue
		}
		_, held := e.keys[sk.inode]
		_, peerHeld := e.keys[sk.peer]
		_, peerInside := inside[sk.peer]
		switch {
		case peerHeld && !held:
			return fmt.Errorf("%w: unix socket %d, connected to held %d", ErrHalfHeld, sk.inode, sk.peer)
		case held && !peerHeld && peerInside:
			return fmt.Errorf("%w: unix socket %d, connected to held %d", ErrHalfHeld, sk.peer, sk.inode)
		}
	}
	return nil
}

// parseOpenFile reads those parts of a file_entry that an edit needs.
func parseOpenFile(msg []byte) (openFile, error) {
	var f openFile
	s := scan(msg)
	for s.next() {
		switch {
		case s.is(fileEntryType, varint):
			f.kind = s.val
		case s.is(fileEntryID, varint):
			f.id = uint32(s.val)
		case s.is(fileEntryReg, lengthDelimited), s.is(fileEntryInet, lengthDelimited), s.is(fileEntryUnix, lengthDelimited):
			f.body = s.buf
		}
	}
	if s.err != nil {
		return f, s.err
	}
	switch f.kind {
	case fileInetSk:
		return f, f.socket(9, 13) // inet_sk_entry.flags and fown
	case fileUnixSk:
		return f, f.socket(5, 9) // unix_sk_entry.flags and fown
	}
	return f, nil
}

// socket reads an inet_sk_entry or a unix_sk_entry. Both have the inode in
// field 2; the others differ.
func (f *openFile) socket(flags, fown protowire.Number) error {
	s := scan(f.body)
	for s.next() {
		switch {
		case s.is(2, varint):
			f.inode = s.val
		case s.is(flags, varint):
			f.flags = s.val
		case s.is(fown, lengthDelimited):
			f.fown = s.buf
		case f.kind == fileUnixSk && s.is(6, varint):
			f.extra = s.val
		case f.kind == fileUnixSk && s.is(8, varint):
			f.peer = s.val
		}
	}
	if s.err == nil && f.inode == 0 {
		return fmt.Errorf("read socket %#x: %w: no inode", f.id, ErrMalformed)
	}
	return s.err
}

// appendReg appends a reg_file_entry called "/"+key: CRIU drops the first byte
// of a name before it compares.
//
// Size and mode stay out, as CRIU would compare them; the mount id too, since
// its default says "whatever mount".
func appendReg(dst []byte, f openFile, key string) []byte {
	dst = appendVarint(dst, regID, uint64(f.id))
	dst = appendVarint(dst, regFlags, f.flags)
	dst = appendVarint(dst, regPos, 0)
	dst = appendBytes(dst, regFown, f.fown)
	dst = protowire.AppendTag(dst, regName, lengthDelimited)
	dst = protowire.AppendVarint(dst, uint64(1+len(key)))
	return append(append(dst, '/'), key...)
}

// appendAsReg appends the file_entry of a socket, eventfd or inotify instance
// with reg in the place of what it said about that.
func appendAsReg(dst, msg, reg []byte) ([]byte, error) {
	s := scan(msg)
	for s.next() {
		switch {
		case s.is(fileEntryType, varint):
			dst = appendVarint(dst, fileEntryType, fileReg)
		case s.is(fileEntryInet, lengthDelimited), s.is(fileEntryUnix, lengthDelimited),
			s.is(fileEntryEventfd, lengthDelimited), s.is(fileEntryInotify, lengthDelimited), s.is(fileEntryReg, lengthDelimited):
			dst = appendBytes(dst, fileEntryReg, reg)
		default:
			dst = append(dst, s.raw...)
		}
	}
	return dst, s.err
}

// fdinfo changes the type of the descriptors of replaced files.
func (e *socketEdit) fdinfo(records []Record) ([]Record, error) {
	var edited []Record
	var block []byte
	for i, rec := range records {
		id, kind, err := parseFdinfo(rec.Message)
		if err != nil {
			return nil, fmt.Errorf("read descriptor %d: %w", i, err)
		}
		done, ok := e.ids[id]
		if !ok {
			continue
		}
		if kind != fileInetSk && kind != fileUnixSk {
			return nil, fmt.Errorf("edit descriptor %d: %w: file %#x is a socket, the descriptor is of type %d", i, ErrMalformed, id, kind)
		}
		if edited == nil {
			edited = slices.Clone(records)
			block = make([]byte, 0, len(e.ids)*16)
		}
		start := len(block)
		if block, err = setVarint(block, rec.Message, fdinfoType, fileReg); err != nil {
			return nil, fmt.Errorf("edit descriptor %d: %w", i, err)
		}
		edited[i].Message = block[start:len(block):len(block)]
		e.done[done].FDs++
	}
	return edited, nil
}

func parseFdinfo(msg []byte) (id uint32, kind uint64, err error) {
	s := scan(msg)
	for s.next() {
		switch {
		case s.is(fdinfoID, varint):
			id = uint32(s.val)
		case s.is(fdinfoType, varint):
			kind = s.val
		}
	}
	return id, kind, s.err
}

// queues drops the packets that wait for a replaced socket. With them left in,
// CRIU finds no sender for descriptors in them and gives up
// (unix_note_scm_rights in criu/sk-unix.c).
func (e *socketEdit) queues(records []Record) ([]Record, error) {
	kept := make([]Record, 0, len(records))
	for i, rec := range records {
		var id uint32
		s := scan(rec.Message)
		for s.next() {
			if s.is(packetFor, varint) {
				id = uint32(s.val)
			}
		}
		if s.err != nil {
			return nil, fmt.Errorf("read packet %d: %w", i, s.err)
		}
		if _, ok := e.ids[id]; !ok {
			kept = append(kept, rec)
		}
	}
	if len(kept) == len(records) {
		return nil, nil
	}
	return kept, nil
}
