package image

import (
	"testing"

	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapctl/snapctl/snapshot/image/wire"
)

func TestParsePagemap(t *testing.T) {
	type field struct {
		num protowire.Number
		val uint64
	}
	const addr = 0x10000
	tests := map[string]struct {
		fields []field
		want   Extent
	}{
		"CRIU 4.2":           {[]field{{1, addr}, {2, 0}, {4, PagePresent}, {5, 7}}, Extent{addr, 7, PagePresent}},
		"CRIU 4.1":           {[]field{{1, addr}, {2, 7}, {4, PagePresent}}, Extent{addr, 7, PagePresent}},
		"both":               {[]field{{1, addr}, {2, 7}, {4, PagePresent}, {5, 7}}, Extent{addr, 7, PagePresent}},
		"no flags":           {[]field{{1, addr}, {2, 7}}, Extent{addr, 7, PagePresent}},
		"no flags, 4.2":      {[]field{{1, addr}, {2, 0}, {5, 7}}, Extent{addr, 7, PagePresent}},
		"in parent, old":     {[]field{{1, addr}, {2, 7}, {3, 1}}, Extent{addr, 7, PageParent}},
		"not in parent, old": {[]field{{1, addr}, {2, 7}, {3, 0}}, Extent{addr, 7, PagePresent}},
		"in parent":          {[]field{{1, addr}, {2, 0}, {3, 1}, {4, PageParent}, {5, 7}}, Extent{addr, 7, PageParent}},
		"lazy":               {[]field{{1, addr}, {2, 0}, {4, PagePresent | PageLazy}, {5, 7}}, Extent{addr, 7, PagePresent | PageLazy}},
		"zero pages":         {[]field{{1, addr}, {2, 0}, {4, 0}, {5, 7}}, Extent{addr, 7, 0}},
		"more than 32 bits":  {[]field{{1, addr}, {2, 0}, {4, PagePresent}, {5, 1 << 33}}, Extent{addr, 1 << 33, PagePresent}},
		"unknown field":      {[]field{{1, addr}, {2, 0}, {4, PagePresent}, {5, 7}, {99, 1}}, Extent{addr, 7, PagePresent}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var msg []byte
			for _, f := range tc.fields {
				msg = wire.AppendVarint(msg, f.num, f.val)
			}
			p, err := ParsePagemap(&Image{Type: TypePagemap, Records: []Record{
				{Message: wire.AppendVarint(nil, 1, 42)}, {Message: msg},
			}})
			qt.Assert(t, qt.IsNil(err))
			qt.Check(t, qt.DeepEquals(p, &Pagemap{PagesID: 42, Extents: []Extent{tc.want}}))
		})
	}
}
