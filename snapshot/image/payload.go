package image

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// payloads computes how many raw bytes follow each message of an image.
//
// Only ghost files need more than the message itself: their first record says
// how the others are to be read.
type payloads struct {
	typ     Type
	records int
	chunks  bool
}

// wholeRest stands for "all that is left of the file".
const wholeRest = ^uint64(0)

func (p *payloads) size(msg []byte) (uint64, error) {
	p.records++
	//exhaustive:ignore
	switch p.typ {
	case TypePipesData, TypeFifoData: // pipe_data_entry.bytes
		return sum(msg, 2)
	case TypeSkQueues: // sk_packet_entry.length
		return sum(msg, 2)
	case TypeTCPStream: // tcp_stream_entry.inq_len and outq_len
		return sum(msg, 1, 3)
	case TypeBPFMapData: // bpfmap_data_entry.keys_bytes and values_bytes
		return sum(msg, 2, 3)
	case TypeIPCSem: // ipc_sem_entry.nsems, of 16 bits each (ipc_ns.c)
		n, err := sum(msg, 2)
		return roundUp(n*2, 8), err
	case TypeIPCShm:
		return shmPayload(msg)
	case TypeIPCMsg:
		return msgPayload(msg)
	case TypeGhostFile:
		return p.ghost(msg)
	}
	return 0, nil
}

// sum adds up the given varint fields, each of which CRIU writes once.
func sum(msg []byte, nums ...protowire.Number) (uint64, error) {
	var total uint64
	s := wire.Scan(msg)
	for s.Next() {
		for _, num := range nums {
			if !s.Is(num, wire.Varint) {
				continue
			}
			if s.Uint > maxPayload || total > maxPayload {
				return 0, fmt.Errorf("read payload length: %w: too large", wire.ErrMalformed)
			}
			total += s.Uint
		}
	}
	return total, s.Err
}

// maxPayload bounds a payload far above anything that fits in a file, and low
// enough that no sum of two overflows.
const maxPayload = 1 << 50

// shmPayload: before CRIU 3.0 a segment's memory followed its ipc_shm_entry;
// since then it is in a pagemap of its own, and in_pagemaps is set.
func shmPayload(msg []byte) (uint64, error) {
	inPagemaps, err := sum(msg, 3)
	if err != nil || inPagemaps != 0 {
		return 0, err
	}
	n, err := sum(msg, 2)
	return roundUp(n, 4), err
}

// msgPayload: an ipc_msg_entry is followed by one record for each message in
// the queue, with the message behind it.
func msgPayload(msg []byte) (uint64, error) {
	queue, err := IsMessageQueue(msg)
	if err != nil || queue {
		return 0, err
	}
	n, err := sum(msg, 2)
	return roundUp(n, 8), err
}

// IsMessageQueue tells an ipc_msg_entry, whose first field is a message, from
// an ipc_msg, where it is a number.
func IsMessageQueue(msg []byte) (bool, error) {
	s := wire.Scan(msg)
	for s.Next() {
		if s.Is(1, wire.Bytes) {
			return true, nil
		}
	}
	return false, s.Err
}

// ghost: a ghost_file_entry, then its content: either all of it up to the end
// of the file or, with chunks set, a ghost_chunk_entry before each piece
// (files-reg.c). Only regular files have content.
func (p *payloads) ghost(msg []byte) (uint64, error) {
	if p.records > 1 {
		return sum(msg, 1) // ghost_chunk_entry.len
	}
	const formatMask, regular = 0o170000, 0o100000
	s := wire.Scan(msg)
	var mode uint64
	for s.Next() {
		switch {
		case s.Is(3, wire.Varint):
			mode = s.Uint
		case s.Is(9, wire.Varint):
			p.chunks = s.Uint != 0
		}
	}
	if s.Err != nil || p.chunks || mode&formatMask != regular {
		return 0, s.Err
	}
	return wholeRest, nil
}

func roundUp(n, to uint64) uint64 { return (n + to - 1) / to * to }
