package openfile

import (
	"fmt"
	"slices"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

const packetFor = 1 // sk_packet_entry.id_for

// files turns the held sockets among file_entry records into regular files.
func (e *socketEdit) files(records []image.Record) ([]image.Record, error) {
	edited := slices.Clone(records)
	// One block of memory for all new messages: 5000 small ones would cost
	// more than everything else here.
	block := make([]byte, 0, len(e.keys)*96)
	var scratch []byte
	for i, rec := range records {
		file, err := image.ParseOpenFile(rec.Message)
		if err != nil {
			return nil, fmt.Errorf("read file %d: %w", i, err)
		}
		switch file.Kind {
		case image.FileReg:
			if err := e.checkName(file); err != nil {
				return nil, err
			}
		case image.FileInetSk, image.FileUnixSk:
			key, held := e.keys[file.Inode]
			if file.Kind == image.FileUnixSk {
				e.unix = append(e.unix, unixPeer{file.Inode, file.Peer, file.Extra&image.UnixExternal != 0})
			}
			if !held {
				continue
			}
			start := len(block)
			scratch = image.AppendReg(scratch[:0], file, key)
			block, err = image.AppendAsReg(block, rec.Message, scratch)
			if err != nil {
				return nil, fmt.Errorf("edit file %#x: %w", file.ID, err)
			}
			edited[i].Message = block[start:len(block):len(block)]
			e.ids[file.ID] = len(e.done)
			e.done = append(e.done, Replaced{Inode: file.Inode, Key: key, File: file.ID})
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
func (e *socketEdit) checkName(file image.OpenFile) error {
	name, err := file.RegName()
	if err != nil || len(name) == 0 {
		return err
	}
	if _, ok := e.taken[string(name[1:])]; ok {
		return fmt.Errorf("%w: %q is the name of file %#x", ErrKey, name[1:], file.ID)
	}
	return nil
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

// fdinfo changes the type of the descriptors of replaced files.
func (e *socketEdit) fdinfo(records []image.Record) ([]image.Record, error) {
	var edited []image.Record
	var block []byte
	for i, rec := range records {
		id, kind, err := image.ParseFdinfo(rec.Message)
		if err != nil {
			return nil, fmt.Errorf("read descriptor %d: %w", i, err)
		}
		done, ok := e.ids[id]
		if !ok {
			continue
		}
		if kind != image.FileInetSk && kind != image.FileUnixSk {
			return nil, fmt.Errorf("edit descriptor %d: %w: file %#x is a socket, the descriptor is of type %d", i, wire.ErrMalformed, id, kind)
		}
		if edited == nil {
			edited = slices.Clone(records)
			block = make([]byte, 0, len(e.ids)*16)
		}
		start := len(block)
		if block, err = wire.SetVarint(block, rec.Message, image.FdinfoType, image.FileReg); err != nil {
			return nil, fmt.Errorf("edit descriptor %d: %w", i, err)
		}
		edited[i].Message = block[start:len(block):len(block)]
		e.done[done].FDs++
	}
	return edited, nil
}

// queues drops the packets that wait for a replaced socket. With them left in,
// CRIU finds no sender for descriptors in them and gives up
// (unix_note_scm_rights in criu/sk-unix.c).
func (e *socketEdit) queues(records []image.Record) ([]image.Record, error) {
	kept := make([]image.Record, 0, len(records))
	for i, rec := range records {
		var id uint32
		s := wire.Scan(rec.Message)
		for s.Next() {
			if s.Is(packetFor, wire.Varint) {
				id = uint32(s.Uint)
			}
		}
		if s.Err != nil {
			return nil, fmt.Errorf("read packet %d: %w", i, s.Err)
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
