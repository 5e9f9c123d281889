package image

import (
	"fmt"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// PageSize is the size of a page in pagemap and pages images: the page size of
// the machine that was dumped, which no image tells. All of x86-64 has 4 KiB.
const PageSize = 4096

// Flags of an [Extent] (criu/include/pagemap.h).
const (
	PageParent  = 1 << 0 // the pages are in the parent dump
	PageLazy    = 1 << 1 // the pages may be fetched after the restore
	PagePresent = 1 << 2 // the pages are in the pages image
)

// An Extent is a run of pages of a process's memory, or of a shared memory
// object.
type Extent struct {
	Start uint64 // address, or offset in a shared memory object
	Pages uint64
	Flags uint32 // PageParent and so on
}

// End returns the address behind the extent.
func (e Extent) End() uint64 { return e.Start + e.Pages*PageSize }

// A Pagemap tells which pages of memory a dump holds, and where.
type Pagemap struct {
	// PagesID is the number in the name of the pages image, pages-<id>.img.
	// It holds the PagePresent pages, in the order of Extents, and no others.
	PagesID uint32
	Extents []Extent
}

// StoredPages returns how many pages the pages image must hold.
func (p *Pagemap) StoredPages() uint64 {
	var n uint64
	for _, e := range p.Extents {
		if e.Flags&PagePresent != 0 {
			n += e.Pages
		}
	}
	return n
}

// ParsePagemap reads the records of a pagemap image, of any version of CRIU.
//
// It returns an error wrapping [wire.ErrMalformed] unless the extents are in
// ascending order, apart from each other and below 1<<63.
func ParsePagemap(img *Image) (*Pagemap, error) {
	if img.Type != TypePagemap {
		return nil, fmt.Errorf("parse pagemap: %w: it is of type %s", wire.ErrMalformed, img.Type)
	}
	b := pagemapBuilder{}
	if n := len(img.Records); n > 1 {
		b.p.Extents = make([]Extent, 0, n-1)
	}
	for i, rec := range img.Records {
		if err := b.add(rec.Message); err != nil {
			return nil, fmt.Errorf("parse pagemap record %d: %w", i, err)
		}
	}
	return b.finish()
}

// pagemapBuilder takes the messages of a pagemap image one by one.
type pagemapBuilder struct {
	p    Pagemap
	head bool
	end  uint64 // of the last extent
}

func (b *pagemapBuilder) add(msg []byte) error {
	if !b.head {
		b.head = true
		s := wire.Scan(msg)
		for s.Next() {
			if s.Is(1, wire.Varint) {
				b.p.PagesID = uint32(s.Uint)
			}
		}
		return s.Err
	}
	e, err := parseExtent(msg)
	if err != nil {
		return err
	}
	// The bound makes all sums of addresses and sizes safe.
	const bound = 1 << 63
	switch {
	case e.Start%PageSize != 0:
		return fmt.Errorf("read extent: %w: start %#x is inside a page", wire.ErrMalformed, e.Start)
	case e.Start >= bound, e.Pages > (bound-e.Start)/PageSize:
		return fmt.Errorf("read extent: %w: %d pages at %#x", wire.ErrMalformed, e.Pages, e.Start)
	case e.Start < b.end:
		return fmt.Errorf("read extent: %w: %#x after %#x", wire.ErrMalformed, e.Start, b.end)
	}
	b.end = e.End()
	b.p.Extents = append(b.p.Extents, e)
	return nil
}

func (b *pagemapBuilder) finish() (*Pagemap, error) {
	if !b.head {
		return nil, fmt.Errorf("parse pagemap: %w: no head", wire.ErrMalformed)
	}
	return &b.p, nil
}

// parseExtent reads a pagemap_entry. The number of pages is in nr_pages since
// CRIU 4.2, in compat_nr_pages before; without flags the pages are stored,
// unless in_parent says otherwise (init_compat_pagemap_entry in
// criu/pagemap.c).
func parseExtent(msg []byte) (Extent, error) {
	var e Extent
	var compat, inParent uint64
	var hasFlags, hasPages bool
	s := wire.Scan(msg)
	for s.Next() {
		if s.Type != wire.Varint {
			continue
		}
		//exhaustive:ignore
		switch s.Num {
		case 1:
			e.Start = s.Uint
		case 2:
			compat = s.Uint
		case 3:
			inParent = s.Uint
		case 4:
			e.Flags, hasFlags = uint32(s.Uint), true
		case 5:
			e.Pages, hasPages = s.Uint, true
		}
	}
	switch {
	case inParent != 0:
		e.Flags |= PageParent
	case !hasFlags:
		e.Flags = PagePresent
	}
	if !hasPages {
		e.Pages = uint64(uint32(compat))
	}
	return e, s.Err
}

// AppendExtent appends a pagemap_entry that every version of CRIU understands: up
// to 4.1 the number of pages is compat_nr_pages.
func AppendExtent(dst []byte, e Extent) []byte {
	dst = wire.AppendVarint(dst, 1, e.Start)
	dst = wire.AppendVarint(dst, 2, uint64(uint32(e.Pages)))
	dst = wire.AppendVarint(dst, 4, uint64(e.Flags))
	return wire.AppendVarint(dst, 5, e.Pages)
}
