package verify

import (
	"context"
	"fmt"
	"io/fs"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	ipc_shm "github.com/checkpoint-restore/go-criu/v8/crit/images/ipc-shm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/memfd"
	remap "github.com/checkpoint-restore/go-criu/v8/crit/images/remap-file-path"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/guard"
)

// The kernel's states of TCP sockets without a connection (include/net/tcp_states.h).
const (
	tcpClose  = 7
	tcpListen = 10
)

// tasks checks each process.
func (v *verification) tasks(ctx context.Context) {
	filters := v.seccompFilters()
	inodes := v.memfdInodes()
	for _, entry := range v.dump.Tree {
		if ctx.Err() != nil {
			return
		}
		t, err := v.dump.Task(entry)
		if err != nil {
			v.add(err)
			continue
		}
		if !t.Alive() {
			if state := t.Core.GetTc().GetTaskState(); state != image.TaskDead {
				v.bad("process %d: task state %d", entry.GetPid(), state)
			}
			continue
		}
		v.descriptors(t)
		v.paths(t)
		v.memory(t)
		v.namespaces(t)
		for i, c := range t.Threads {
			switch thread := c.GetThreadCore(); {
			case thread == nil:
				v.bad("process %d: thread %d has no thread_core", entry.GetPid(), entry.GetThreads()[i])
			case thread.SeccompFilter != nil && int(thread.GetSeccompFilter()) >= filters:
				v.bad("process %d: seccomp filter %d, of %d", entry.GetPid(), thread.GetSeccompFilter(), filters)
			}
		}
	}
	for _, f := range v.dump.Files {
		if m := f.GetMemfd(); m != nil {
			if _, ok := inodes[m.GetInodeId()]; !ok {
				v.bad("files.img: memfd %#x is inode %d, which is not in memfd.img", f.GetId(), m.GetInodeId())
			}
		}
	}
}

func (v *verification) descriptors(t *image.Task) {
	where := fmt.Sprintf("fdinfo-%d.img", t.IDs.GetFilesId())
	seen := make(map[uint32]struct{}, len(t.FDs))
	for _, fd := range t.FDs {
		if _, dup := seen[fd.GetFd()]; dup {
			v.bad("%s: descriptor %d is there twice", where, fd.GetFd())
		}
		seen[fd.GetFd()] = struct{}{}
		v.needFile(where, fmt.Sprintf("descriptor %d", fd.GetFd()), fd.GetId(), fd.GetType())
	}
}

func (v *verification) paths(t *image.Task) {
	pid := t.Entry.GetPid()
	v.needFile(fmt.Sprintf("mm-%d.img", pid), "executable", t.MM.GetExeFileId(), fdinfo.FdTypes_REG)
	v.needFile(fmt.Sprintf("fs-%d.img", pid), "working directory", t.FS.GetCwdId(), fdinfo.FdTypes_REG)
	v.needFile(fmt.Sprintf("fs-%d.img", pid), "root directory", t.FS.GetRootId(), fdinfo.FdTypes_REG)
}

// memory checks the mappings of a process and the pages behind them.
func (v *verification) memory(t *image.Task) {
	where := fmt.Sprintf("mm-%d.img", t.Entry.GetPid())
	for _, m := range t.MM.GetVmas() {
		switch {
		case m.GetStart() >= m.GetEnd(), m.GetStart()%image.PageSize != 0, m.GetEnd()%image.PageSize != 0:
			v.bad("%s: mapping from %#x to %#x", where, m.GetStart(), m.GetEnd())
			return
		case m.GetStatus()&image.VMAMemfd != 0:
			v.needFile(where, mappingAt(m), uint32(m.GetShmid()), fdinfo.FdTypes_MEMFD)
		case m.GetStatus()&(image.VMAFilePrivate|image.VMAFileShared) != 0:
			v.needFile(where, mappingAt(m), uint32(m.GetShmid()), fdinfo.FdTypes_REG)
		case m.GetStatus()&image.VMAAnonShared != 0 && m.GetStatus()&image.VMASysV == 0:
			v.sharedMemory(where, m.GetShmid())
		}
	}
	name := fmt.Sprintf("pagemap-%d.img", t.Entry.GetPid())
	share, err := image.CountPages(t.Pages, t.MM.GetVmas())
	if err != nil {
		v.add(fmt.Errorf("%s: %w", where, err))
	}
	if share.Outside > 0 {
		v.bad("%s: %d pages are in no mapping", name, share.Outside)
	}
	if len(t.Pages.Extents) == 0 {
		v.bad("%s: no pages at all", name) // premap_priv_vmas in criu/mem.c would crash
	}
	v.pagesFile(name, t.Pages)
}

// systemV checks the pages of shared memory segments.
func (v *verification) systemV(context.Context) {
	for _, name := range v.dump.Named("ipcns-shm-") {
		segments, err := image.ReadAll[ipc_shm.IpcShmEntry](v.dump, name, image.TypeIPCShm)
		v.add(err)
		for _, shm := range segments {
			if shm.GetInPagemaps() {
				v.sharedMemory(name, uint64(shm.GetDesc().GetId()))
			}
		}
	}
}

// namespaces checks that what a process's own namespaces hold is there. Those
// that it has in common with whoever made the dump are not saved.
func (v *verification) namespaces(t *image.Task) {
	host := v.dump.Inventory.GetRootIds()
	for _, ns := range []struct {
		prefix string
		id     uint32
		host   uint32
	}{
		{"utsns", t.IDs.GetUtsNsId(), host.GetUtsNsId()},
		{"ipcns-var", t.IDs.GetIpcNsId(), host.GetIpcNsId()},
		{"mountpoints", t.IDs.GetMntNsId(), host.GetMntNsId()},
		{"timens", t.IDs.GetTimeNsId(), host.GetTimeNsId()},
	} {
		name := fmt.Sprintf("%s-%d.img", ns.prefix, ns.id)
		if ns.id != ns.host && !v.dump.Has(name) {
			v.bad("process %d: a namespace of its own, but no %s", t.Entry.GetPid(), name)
		}
	}
}

func mappingAt(m *vma.VmaEntry) string { return fmt.Sprintf("mapping at %#x", m.GetStart()) }

// sharedMemory checks the pages of a shared memory object. Several mappings
// share them: the pages are checked with the first.
func (v *verification) sharedMemory(where string, object uint64) {
	name := fmt.Sprintf("pagemap-shmem-%d.img", object)
	if !v.dump.Has(name) {
		v.bad("%s: shared memory %d without %s", where, object, name)
		return
	}
	p, err := v.dump.ReadPagemap(name)
	if err != nil {
		v.add(err)
		return
	}
	v.pagesFile(name, p)
}

// pagesFile compares a pagemap with the size of its pages image.
func (v *verification) pagesFile(name string, p *image.Pagemap) {
	if other, ok := v.pages[p.PagesID]; ok {
		if other != name {
			v.bad("%s: pages %d belong to %s", name, p.PagesID, other)
		}
		return
	}
	v.pages[p.PagesID] = name
	pages := fmt.Sprintf("pages-%d.img", p.PagesID)
	size, ok := v.dump.Sizes[pages]
	// With more than 1<<51 pages the size would overflow, and cannot be right.
	stored := p.StoredPages()
	switch {
	case !ok:
		v.add(fmt.Errorf("%s: %s: %w", name, pages, fs.ErrNotExist))
	case stored > 1<<51 || uint64(size) != stored*image.PageSize:
		v.bad("%s: %s has %d bytes instead of %d pages", name, pages, size, stored)
	}
	for _, e := range p.Extents {
		if e.Flags&image.PageParent != 0 && !v.dump.Parent {
			v.bad("%s: pages at %#x are in a parent dump, there is none", name, e.Start)
			return
		}
	}
}

// seccompFilters checks that no chain of filters is endless, and returns how
// many there are.
func (v *verification) seccompFilters() int {
	if !v.dump.Has("seccomp.img") {
		return 0
	}
	all, err := image.ReadOne[seccomp.SeccompEntry](v.dump, "seccomp.img", image.TypeSeccomp)
	if err != nil {
		v.add(err)
		return 0
	}
	filters := all.GetSeccompFilters()
	next := make([]int, len(filters))
	for i, f := range filters {
		if next[i] = guard.NoFilter; f.Prev != nil {
			next[i] = int(f.GetPrev())
		}
	}
	if err := guard.CheckChains(next); err != nil {
		v.add(fmt.Errorf("seccomp.img: %w", err))
	}
	return len(filters)
}

// memfdInodes reads memfd.img and checks the pages of each.
func (v *verification) memfdInodes() map[uint32]struct{} {
	inodes := make(map[uint32]struct{})
	if !v.dump.Has("memfd.img") {
		return inodes
	}
	all, err := image.ReadAll[memfd.MemfdInodeEntry](v.dump, "memfd.img", image.TypeMemfdInode)
	v.add(err)
	for _, m := range all {
		inodes[uint32(m.GetInodeId())] = struct{}{}
		if m.GetSize() > 0 {
			v.sharedMemory("memfd.img", uint64(m.GetShmid()))
		}
	}
	return inodes
}

// removedFiles checks that the content of files without a name is there.
func (v *verification) removedFiles(context.Context) {
	if !v.dump.Has("remap-fpath.img") {
		return
	}
	remaps, err := image.ReadAll[remap.RemapFilePathEntry](v.dump, "remap-fpath.img", image.TypeRemapPath)
	v.add(err)
	for _, r := range remaps {
		v.needFile("remap-fpath.img", "removed file", r.GetOrigId())
		id, ghost := image.GhostID(r)
		switch {
		case ghost:
			if name := fmt.Sprintf("ghost-file-%x.img", id); !v.dump.Has(name) {
				v.bad("remap-fpath.img: file %#x without %s", r.GetOrigId(), name)
			}
		case r.GetRemapType() == remap.RemapType_LINKED:
			v.needFile("remap-fpath.img", "link", id)
		}
	}
}
