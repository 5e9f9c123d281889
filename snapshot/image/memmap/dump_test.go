package memmap

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/regfile"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"github.com/go-quicktest/qt"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/imagetest"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// A fakeProcess is what a made-up dump says of a process. Its page at an address
// holds nothing but that address, its pid and the dump's generation, unless the content
// says otherwise.
type fakeProcess struct {
	pid     uint32
	ppid    uint32
	content pageContent
	vmas    []*vma.VmaEntry
	extents []image.Extent
	threads []*core.ThreadCoreEntry // none: one without filters
}

// unknown is a field that no version of CRIU has yet.
func unknown() []byte { return wire.AppendBytes(nil, 999, []byte("of tomorrow")) }

// writeDump makes a dump in a fresh directory. Files are the names of regular
// ones, by id.
func writeDump(tb testing.TB, generation uint64, files map[uint32]string, filters []*seccomp.SeccompFilter, processes ...fakeProcess) string {
	tb.Helper()
	dir, real := tb.TempDir(), imagetest.FS(tb, "plain")
	put := func(name string, typ image.Type, messages ...proto.Message) {
		img := &image.Image{Type: typ}
		for _, m := range messages {
			b, err := proto.Marshal(m)
			qt.Assert(tb, qt.IsNil(err))
			img.Records = append(img.Records, image.Record{Message: b})
		}
		qt.Assert(tb, qt.IsNil(os.WriteFile(filepath.Join(dir, name), img.Encode(), 0o600)))
	}
	like := func(name string, m proto.Message) {
		img, err := image.Decode(real[name].Data)
		qt.Assert(tb, qt.IsNil(err))
		qt.Assert(tb, qt.IsNil(proto.Unmarshal(img.Records[0].Message, m)))
	}
	qt.Assert(tb, qt.IsNil(os.WriteFile(filepath.Join(dir, "inventory.img"), real["inventory.img"].Data, 0o600)))
	if len(filters) > 0 {
		put("seccomp.img", image.TypeSeccomp, &seccomp.SeccompEntry{SeccompFilters: filters})
	}
	var table, tree []proto.Message
	zero := proto.Uint32(0)
	owner := &fown.FownEntry{Uid: zero, Euid: zero, Signum: zero, PidType: zero, Pid: zero}
	for id, name := range files {
		reg := &regfile.RegFileEntry{
			Id: new(id), Flags: proto.Uint32(0), Pos: proto.Uint64(0), Name: new(name), Fown: owner,
		}
		entry := &fdinfo.FileEntry{Type: fdinfo.FdTypes_REG.Enum(), Id: new(id), Reg: reg}
		table = append(table, entry)
	}
	put("files.img", image.TypeFiles, table...)
	for i, p := range processes {
		entry := &pstree.PstreeEntry{Pid: new(p.pid), Ppid: new(p.ppid), Pgid: new(p.pid), Sid: new(p.pid)}
		if len(p.threads) == 0 {
			p.threads = []*core.ThreadCoreEntry{{}}
		}
		for j, thread := range p.threads {
			tid := p.pid + uint32(j)
			entry.Threads = append(entry.Threads, tid)
			c := &core.CoreEntry{}
			like("core-1.img", c)
			c.ThreadCore.SeccompMode, c.ThreadCore.SeccompFilter = thread.SeccompMode, thread.SeccompFilter
			c.ThreadCore.ProtoReflect().SetUnknown(unknown())
			put(fmt.Sprintf("core-%d.img", tid), image.TypeCore, c)
		}
		tree = append(tree, entry)
		m := &mm.MmEntry{}
		like("mm-1.img", m)
		m.Vmas = nil
		for _, v := range p.vmas {
			v = proto.CloneOf(v)
			v.ProtoReflect().SetUnknown(unknown())
			m.Vmas = append(m.Vmas, v)
		}
		m.ProtoReflect().SetUnknown(unknown())
		put(fmt.Sprintf("mm-%d.img", p.pid), image.TypeMM, m)
		pagesID := uint32(i + 1)
		entries := []proto.Message{&pagemap.PagemapHead{PagesId: new(pagesID)}}
		var pages []byte
		for _, e := range p.extents {
			entries = append(entries, &pagemap.PagemapEntry{
				Vaddr: new(e.Start), CompatNrPages: proto.Uint32(0), NrPages: new(e.Pages), Flags: new(e.Flags),
			})
			if e.Flags&image.PagePresent == 0 {
				continue
			}
			for a := e.Start; a < e.End(); a += image.PageSize {
				if page, ok := p.content[a]; ok {
					pages = append(pages, page...)
					continue
				}
				pages = append(pages, fakePage(a, p.pid, generation)...)
			}
		}
		put(fmt.Sprintf("pagemap-%d.img", p.pid), image.TypePagemap, entries...)
		qt.Assert(tb, qt.IsNil(os.WriteFile(filepath.Join(dir, fmt.Sprintf("pages-%d.img", pagesID)), pages, 0o600)))
	}
	put("pstree.img", image.TypePstree, tree...)
	return dir
}

func fakePage(addr uint64, pid uint32, generation uint64) []byte {
	page := make([]byte, image.PageSize)
	for i := 0; i < image.PageSize; i += 24 {
		if i+24 <= image.PageSize {
			binary.LittleEndian.PutUint64(page[i:], addr)
			binary.LittleEndian.PutUint64(page[i+8:], uint64(pid))
			binary.LittleEndian.PutUint64(page[i+16:], generation)
		}
	}
	return page
}

// A pageContent is one process's memory: what each page holds that is in a file.
type pageContent map[uint64]string

// readMemory says what memory processes would have that CRIU restores from a
// directory, by pid. files are those that CRIU is given, by their names in the
// images. It shares no code with what it checks but for finding the records.
func readMemory(tb testing.TB, dir string, files map[string][]byte) map[uint32]pageContent {
	tb.Helper()
	records := func(name string) []image.Record {
		data, err := os.ReadFile(filepath.Join(dir, name))
		qt.Assert(tb, qt.IsNil(err))
		img, err := image.Decode(data)
		qt.Assert(tb, qt.IsNil(err))
		return img.Records
	}
	load := func(rec image.Record, m proto.Message) {
		qt.Assert(tb, qt.IsNil(proto.Unmarshal(rec.Message, m)))
	}
	mapped := make(map[uint64][]byte)
	for _, rec := range records("files.img") {
		f := &fdinfo.FileEntry{}
		load(rec, f)
		if data, ok := files[f.GetReg().GetName()]; ok {
			_, twice := mapped[uint64(f.GetId())]
			qt.Assert(tb, qt.IsFalse(twice))
			mapped[uint64(f.GetId())] = data
		}
	}
	all := make(map[uint32]pageContent)
	for _, rec := range records("pstree.img") {
		p := &pstree.PstreeEntry{}
		load(rec, p)
		pid := p.GetPid()
		if _, err := os.Stat(filepath.Join(dir, fmt.Sprintf("mm-%d.img", pid))); err != nil {
			continue // a zombie
		}
		all[pid] = make(pageContent)
		m := &mm.MmEntry{}
		load(records(fmt.Sprintf("mm-%d.img", pid))[0], m)
		for _, v := range m.GetVmas() {
			data, ok := mapped[v.GetShmid()]
			if v.GetStatus()&image.VMAFilePrivate == 0 || !ok {
				continue
			}
			for a := v.GetStart(); a < v.GetEnd(); a += image.PageSize {
				from := v.GetPgoff() + a - v.GetStart()
				all[pid][a] = string(data[from : from+image.PageSize])
			}
		}
		pages := records(fmt.Sprintf("pagemap-%d.img", pid))
		head := &pagemap.PagemapHead{}
		load(pages[0], head)
		qt.Check(tb, qt.IsTrue(len(pages) > 1), qt.Commentf("CRIU would crash"))
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("pages-%d.img", head.GetPagesId())))
		qt.Assert(tb, qt.IsNil(err))
		for _, rec := range pages[1:] {
			e := &pagemap.PagemapEntry{}
			load(rec, e)
			if e.GetFlags()&image.PagePresent == 0 {
				continue
			}
			for i := range e.GetNrPages() {
				all[pid][e.GetVaddr()+i*image.PageSize] = string(data[:image.PageSize])
				data = data[image.PageSize:]
			}
		}
		qt.Check(tb, qt.HasLen(data, 0))
	}
	return all
}

// ownFileIDs proves that no two processes map private memory by the same file id: CRIU
// would take it for shared, whatever the offset is.
func ownFileIDs(tb testing.TB, dir string, pids ...uint32) {
	tb.Helper()
	users := make(map[uint64]uint32)
	for _, pid := range pids {
		data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("mm-%d.img", pid)))
		qt.Assert(tb, qt.IsNil(err))
		img, err := image.Decode(data)
		qt.Assert(tb, qt.IsNil(err))
		m := &mm.MmEntry{}
		qt.Assert(tb, qt.IsNil(proto.Unmarshal(img.Records[0].Message, m)))
		for _, v := range m.GetVmas() {
			if v.GetStatus()&image.VMAFilePrivate == 0 {
				continue
			}
			if user, ok := users[v.GetShmid()]; ok && user != pid {
				tb.Errorf("processes %d and %d share a file id", user, pid)
			}
			users[v.GetShmid()] = pid
		}
	}
}

// sameMemory compares what each page of each process holds.
func sameMemory(tb testing.TB, got, want map[uint32]pageContent) {
	tb.Helper()
	qt.Assert(tb, qt.HasLen(got, len(want)))
	for pid, pages := range want {
		qt.Check(tb, qt.HasLen(got[pid], len(pages)))
		wrong := 0
		for a, page := range pages {
			if got[pid][a] != page {
				wrong++
			}
		}
		qt.Check(tb, qt.Equals(wrong, 0), qt.Commentf("process %d: of %d pages", pid, len(pages)))
	}
}

// attributes says, page by page, all of a process's mappings that must not change
// when they are mapped from a file: where they are, and what may be done there.
func attributes(tb testing.TB, dir string, pid uint32) map[uint64]string {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("mm-%d.img", pid)))
	qt.Assert(tb, qt.IsNil(err))
	img, err := image.Decode(data)
	qt.Assert(tb, qt.IsNil(err))
	qt.Assert(tb, qt.HasLen(img.Records, 1))
	m := &mm.MmEntry{}
	qt.Assert(tb, qt.IsNil(proto.Unmarshal(img.Records[0].Message, m)))
	out := make(map[uint64]string)
	for _, v := range m.GetVmas() {
		text := fmt.Sprintf("%x %x %x %d %x %t", v.GetProt(), v.GetFlags()&^mapAnonymous, v.GetMadv(), v.GetFd(),
			v.GetStatus()&image.VMAGuard, bytes.Contains(v.ProtoReflect().GetUnknown(), unknown()))
		for a := v.GetStart(); a < v.GetEnd(); a += image.PageSize {
			out[a] += text
		}
	}
	m.Vmas = nil
	rest, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	qt.Assert(tb, qt.IsNil(err))
	out[0] = string(rest)
	return out
}

// pagesFiles reads the pages images of a dump as files, by key, and the keys by name.
func pagesFiles(tb testing.TB, dir string, names []string) (files map[string][]byte, keys map[string]string) {
	tb.Helper()
	files, keys = make(map[string][]byte), make(map[string]string)
	for i, name := range names {
		data, err := os.ReadFile(filepath.Join(dir, name))
		qt.Assert(tb, qt.IsNil(err))
		keys[name] = strconv.Itoa(i) + "//" + name
		files["/"+keys[name]] = data
	}
	return files, keys
}

// newView makes a view of a dump that is removed after the test.
func newView(tb testing.TB, images string) *image.View {
	tb.Helper()
	v, err := image.NewView(tb.Context(), images, filepath.Join(tb.TempDir(), "view"))
	qt.Assert(tb, qt.IsNil(err))
	return v
}

// filesAdded are the names of the files that an edit added, sorted.
func filesAdded(tb testing.TB, before, after string) []string {
	tb.Helper()
	list := func(dir string) (names []string) {
		data, err := os.ReadFile(filepath.Join(dir, "files.img"))
		qt.Assert(tb, qt.IsNil(err))
		img, err := image.Decode(data)
		qt.Assert(tb, qt.IsNil(err))
		for _, rec := range img.Records {
			f := &fdinfo.FileEntry{}
			qt.Assert(tb, qt.IsNil(proto.Unmarshal(rec.Message, f)))
			names = append(names, f.GetReg().GetName())
		}
		return names
	}
	names := list(after)[len(list(before)):]
	slices.Sort(names)
	return names
}
