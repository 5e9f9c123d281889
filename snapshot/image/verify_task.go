package image

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
	for _, entry := range v.dump.tree {
		if ctx.Err() != nil {
			return
		}
		t, err := v.dump.task(entry)
		if err != nil {
			v.add(err)
			continue
		}
		if !t.alive() {
			if state := t.core.GetTc().GetTaskState(); state != taskDead {
				v.bad("process %d: task state %d", entry.GetPid(), state)
			}
			continue
		}
		v.descriptors(t)
		v.paths(t)
		v.memory(t)
		v.namespaces(t)
		for i, c := range t.threads {
			switch thread := c.GetThreadCore(); {
			case thread == nil:
				v.bad("process %d: thread %d has no thread_core", entry.GetPid(), entry.GetThreads()[i])
			case thread.SeccompFilter != nil && int(thread.GetSeccompFilter()) >= filters:
				v.bad("process %d: seccomp filter %d, of %d", entry.GetPid(), thread.GetSeccompFilter(), filters)
			}
		}
	}
	for _, f := range v.dump.files {
		if m := f.GetMemfd(); m != nil {
			if _, ok := inodes[m.GetInodeId()]; !ok {
				v.bad("files.img: memfd %#x is inode %d, which is not in memfd.img", f.GetId(), m.GetInodeId())
			}
		}
	}
}

func (v *verification) descriptors(t *task) {
	where := fmt.Sprintf("fdinfo-%d.img", t.ids.GetFilesId())
	seen := make(map[uint32]struct{}, len(t.fds))
	for _, fd := range t.fds {
		if _, dup := seen[fd.GetFd()]; dup {
			v.bad("%s: descriptor %d is there twice", where, fd.GetFd())
		}
		seen[fd.GetFd()] = struct{}{}
		v.needFile(where, fmt.Sprintf("descriptor %d", fd.GetFd()), fd.GetId(), fd.GetType())
	}
}

func (v *verification) paths(t *task) {
	pid := t.entry.GetPid()
	v.needFile(fmt.Sprintf("mm-%d.img", pid), "executable", t.mm.GetExeFileId(), fdinfo.FdTypes_REG)
	v.needFile(fmt.Sprintf("fs-%d.img", pid), "working directory", t.fs.GetCwdId(), fdinfo.FdTypes_REG)
	v.needFile(fmt.Sprintf("fs-%d.img", pid), "root directory", t.fs.GetRootId(), fdinfo.FdTypes_REG)
}

// memory checks the mappings of a process and the pages behind them.
func (v *verification) memory(t *task) {
	where := fmt.Sprintf("mm-%d.img", t.entry.GetPid())
	for _, m := range t.mm.GetVmas() {
		switch {
		case m.GetStart() >= m.GetEnd(), m.GetStart()%PageSize != 0, m.GetEnd()%PageSize != 0:
			v.bad("%s: mapping from %#x to %#x", where, m.GetStart(), m.GetEnd())
			return
		case m.GetStatus()&vmaMemfd != 0:
			v.needFile(where, mappingAt(m), uint32(m.GetShmid()), fdinfo.FdTypes_MEMFD)
		case m.GetStatus()&(vmaFilePrivate|vmaFileShared) != 0:
			v.needFile(where, mappingAt(m), uint32(m.GetShmid()), fdinfo.FdTypes_REG)
		case m.GetStatus()&vmaAnonShared != 0 && m.GetStatus()&vmaSysV == 0:
			v.sharedMemory(where, m.GetShmid())
		}
	}
	name := fmt.Sprintf("pagemap-%d.img", t.entry.GetPid())
	share, err := sharePages(t.pages, t.mm.GetVmas())
	if err != nil {
		v.add(fmt.Errorf("%s: %w", where, err))
	}
	if share.outside > 0 {
		v.bad("%s: %d pages are in no mapping", name, share.outside)
	}
	if len(t.pages.Extents) == 0 {
		v.bad("%s: no pages at all", name) // premap_priv_vmas in criu/mem.c would crash
	}
	v.pagesFile(name, t.pages)
}

// systemV checks the pages of shared memory segments.
func (v *verification) systemV(context.Context) {
	for _, name := range v.dump.named("ipcns-shm-") {
		segments, err := readAll[ipc_shm.IpcShmEntry](v.dump, name, TypeIPCShm)
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
func (v *verification) namespaces(t *task) {
	host := v.dump.inventory.GetRootIds()
	for _, ns := range []struct {
		prefix string
		id     uint32
		host   uint32
	}{
		{"utsns", t.ids.GetUtsNsId(), host.GetUtsNsId()},
		{"ipcns-var", t.ids.GetIpcNsId(), host.GetIpcNsId()},
		{"mountpoints", t.ids.GetMntNsId(), host.GetMntNsId()},
		{"timens", t.ids.GetTimeNsId(), host.GetTimeNsId()},
	} {
		name := fmt.Sprintf("%s-%d.img", ns.prefix, ns.id)
		if ns.id != ns.host && !v.dump.has(name) {
			v.bad("process %d: a namespace of its own, but no %s", t.entry.GetPid(), name)
		}
	}
}

func mappingAt(m *vma.VmaEntry) string { return fmt.Sprintf("mapping at %#x", m.GetStart()) }

// sharedMemory checks the pages of a shared memory object. Several mappings
// share them: the pages are checked with the first.
func (v *verification) sharedMemory(where string, object uint64) {
	name := fmt.Sprintf("pagemap-shmem-%d.img", object)
	if !v.dump.has(name) {
		v.bad("%s: shared memory %d without %s", where, object, name)
		return
	}
	p, err := v.dump.readPagemap(name)
	if err != nil {
		v.add(err)
		return
	}
	v.pagesFile(name, p)
}

// pagesFile compares a pagemap with the size of its pages image.
func (v *verification) pagesFile(name string, p *Pagemap) {
	if other, ok := v.pages[p.PagesID]; ok {
		if other != name {
			v.bad("%s: pages %d belong to %s", name, p.PagesID, other)
		}
		return
	}
	v.pages[p.PagesID] = name
	pages := fmt.Sprintf("pages-%d.img", p.PagesID)
	size, ok := v.dump.sizes[pages]
	// With more than 1<<51 pages the size would overflow, and cannot be right.
	stored := p.StoredPages()
	switch {
	case !ok:
		v.add(fmt.Errorf("%s: %s: %w", name, pages, fs.ErrNotExist))
	case stored > 1<<51 || uint64(size) != stored*PageSize:
		v.bad("%s: %s has %d bytes instead of %d pages", name, pages, size, stored)
	}
	for _, e := range p.Extents {
		if e.Flags&PageParent != 0 && !v.dump.parent {
			v.bad("%s: pages at %#x are in a parent dump, there is none", name, e.Start)
			return
		}
	}
}

// seccompFilters checks that no chain of filters is endless, and returns how
// many there are.
func (v *verification) seccompFilters() int {
	if !v.dump.has("seccomp.img") {
		return 0
	}
	all, err := readOne[seccomp.SeccompEntry](v.dump, "seccomp.img", TypeSeccomp)
	if err != nil {
		v.add(err)
		return 0
	}
	filters := all.GetSeccompFilters()
	next := make([]int, len(filters))
	for i, f := range filters {
		if next[i] = noFilter; f.Prev != nil {
			next[i] = int(f.GetPrev())
		}
	}
	if err := checkChains(next); err != nil {
		v.add(fmt.Errorf("seccomp.img: %w", err))
	}
	return len(filters)
}

// memfdInodes reads memfd.img and checks the pages of each.
func (v *verification) memfdInodes() map[uint32]struct{} {
	inodes := make(map[uint32]struct{})
	if !v.dump.has("memfd.img") {
		return inodes
	}
	all, err := readAll[memfd.MemfdInodeEntry](v.dump, "memfd.img", TypeMemfdInode)
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
	if !v.dump.has("remap-fpath.img") {
		return
	}
	remaps, err := readAll[remap.RemapFilePathEntry](v.dump, "remap-fpath.img", TypeRemapPath)
	v.add(err)
	for _, r := range remaps {
		v.needFile("remap-fpath.img", "removed file", r.GetOrigId())
		id, ghost := ghostID(r)
		switch {
		case ghost:
			if name := fmt.Sprintf("ghost-file-%x.img", id); !v.dump.has(name) {
				v.bad("remap-fpath.img: file %#x without %s", r.GetOrigId(), name)
			}
		case r.GetRemapType() == remap.RemapType_LINKED:
			v.needFile("remap-fpath.img", "link", id)
		}
	}
}
