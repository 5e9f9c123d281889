package memmap

import (
	"fmt"
	"os"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// A cut is a run that becomes a mapping of its own, of a file that has its pages.
type cut struct {
	Run
	file uint32
}

// cuts are the runs to be mapped, of a pages image that is a file.
func (p *Plan) cuts(file uint32) []cut {
	cuts := make([]cut, len(p.Mapped))
	for i, r := range p.Mapped {
		cuts[i] = cut{Run: r, file: file}
	}
	return cuts
}

// pieces cuts each mapping. base says what the id of a file of an earlier dump
// becomes. The cuts ascend.
func (p *Plan) pieces(vmas []*vma.VmaEntry, base func(file uint32) uint32, cuts []cut) [][]piece {
	pieces := make([][]piece, len(vmas))
	for i, v := range vmas {
		whole := piece{start: v.GetStart(), end: v.GetEnd(), offset: v.GetPgoff()}
		if p.Based[i] {
			whole.file = base(uint32(v.GetShmid()))
		}
		pieces[i] = []piece{whole}
	}
	for _, r := range cuts {
		// The last piece is what is left of the mapping behind the run before.
		all := pieces[r.VMA]
		rest := all[len(all)-1]
		all = all[:len(all)-1]
		if rest.start < r.Start {
			all = append(all, piece{start: rest.start, end: r.Start, file: rest.file, offset: rest.offset})
		}
		all = append(all, piece{start: r.Start, end: r.End(), file: r.file, offset: r.Offset * image.PageSize})
		if r.End() < rest.end {
			all = append(all, piece{start: r.End(), end: rest.end, file: rest.file, offset: rest.offset + r.End() - rest.start})
		} else {
			all = append(all, piece{}) // nothing left
		}
		pieces[r.VMA] = all
	}
	return pieces
}

// A piece is a part of a mapping: of file, or as the whole was if file is 0.
type piece struct {
	start, end uint64
	file       uint32
	offset     uint64 // in the file; of what is as it was and no file's it says nothing
	anon       bool   // make it private anonymous memory
}

// Fields of mm_entry and vma_entry.
const (
	mmVmas = 14

	vmaStart   = 1
	vmaEnd     = 2
	vmaPgoff   = 3
	vmaShmid   = 4
	vmaFlags   = 6
	vmaStatus  = 7
	vmaFdflags = 10
)

func replaceMappings(msg []byte, pieces [][]piece) ([]byte, error) {
	out := make([]byte, 0, len(msg)*2)
	n := 0
	s := wire.Scan(msg)
	for s.Next() {
		if !s.Is(mmVmas, wire.Bytes) {
			out = append(out, s.Raw...)
			continue
		}
		if n == len(pieces) {
			return nil, fmt.Errorf("edit mappings: %w: more than there were", wire.ErrMalformed)
		}
		for _, p := range pieces[n] {
			if p.start == p.end {
				continue
			}
			part, err := p.entry(s.Bytes)
			if err != nil {
				return nil, err
			}
			out = wire.AppendBytes(out, mmVmas, part)
		}
		n++
	}
	return out, s.Err
}

// entry makes the vma_entry of a piece out of that of the whole.
func (p piece) entry(whole []byte) ([]byte, error) {
	set := map[protowire.Number]uint64{vmaStart: p.start, vmaEnd: p.end}
	var flags, status uint64
	s := wire.Scan(whole)
	for s.Next() {
		switch {
		case s.Is(vmaFlags, wire.Varint):
			flags = s.Uint
		case s.Is(vmaStatus, wire.Varint):
			status = s.Uint
		}
	}
	if s.Err != nil {
		return nil, s.Err
	}
	if !p.anon && p.file == 0 {
		if status&(image.VMAFilePrivate|image.VMAFileShared) != 0 {
			set[vmaPgoff] = p.offset
		}
		return wire.ReplaceVarints(whole, set)
	}
	set[vmaFlags] = flags
	if p.anon {
		set[vmaPgoff], set[vmaShmid], set[vmaStatus] = 0, 0, image.VMARegular|image.VMAAnonPrivate
		set[vmaFlags] |= mapAnonymous
		return wire.ReplaceVarints(whole, set, vmaFdflags)
	}
	set[vmaPgoff], set[vmaShmid] = p.offset, uint64(p.file)
	set[vmaStatus], set[vmaFdflags] = image.VMARegular|image.VMAFilePrivate, uint64(os.O_RDONLY)
	set[vmaFlags] &^= mapAnonymous
	return wire.ReplaceVarints(whole, set)
}

// editMappings replaces each mapping of a process by its pieces.
func editMappings(v *image.View, t *image.Task, pieces [][]piece) error {
	name := fmt.Sprintf("mm-%d.img", t.Entry.GetPid())
	return v.EditFirst(name, image.TypeMM, func(msg []byte) ([]byte, error) { return replaceMappings(msg, pieces) })
}
