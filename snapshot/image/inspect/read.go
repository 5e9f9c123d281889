package inspect

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/memfd"
	remap "github.com/checkpoint-restore/go-criu/v8/crit/images/remap-file-path"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/stats"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Read reads what a dump says about the processes in it. images is CRIU's
// images directory, or a [image.View].
//
// It reads all images but memory pages, the content of removed files and other
// raw ones, so that it takes some milliseconds for each process, however large
// that is. It checks no more than it has to: see [verify.Images].
//
// bases are the names that the dump has for memory files of earlier dumps, see
// [memmap.Files].
//
// The error wraps [wire.ErrMalformed] or [fs.ErrNotExist] if images are bad or
// missing.
func Read(ctx context.Context, images string, bases ...string) (*Info, error) {
	info, err := ReadFS(ctx, os.DirFS(images), bases...)
	if err != nil {
		return nil, fmt.Errorf("inspect %s: %w", images, err)
	}
	return info, nil
}

// ReadFS is [Read] for a dump in a file system.
func ReadFS(ctx context.Context, fsys fs.FS, bases ...string) (*Info, error) {
	d, err := image.OpenDump(ctx, fsys)
	if err != nil {
		return nil, err
	}
	in := inspection{dump: d, bases: bases, info: &Info{
		Version:     d.Inventory.GetImgVersion(),
		TCPClosed:   d.Inventory.GetTcpClose(),
		Incremental: d.Parent,
	}}
	// The files before the processes, which refer to them, and then what waits
	// to be told where it is open.
	for _, step := range []func(context.Context) error{
		in.fileNames, in.processes, in.openFiles, in.namespaces, in.images, in.statistics,
	} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	in.totals()
	return in.info, nil
}

// An inspection gathers an Info.
type inspection struct {
	dump  *image.Dump
	bases []string
	info  *Info

	names   map[uint32]fileName
	openAt  map[uint32][]image.DescriptorRef // by file id
	removed map[uint32]struct{}              // file ids
}

// fileNames names all files of the dump.
func (in *inspection) fileNames(context.Context) error {
	in.names = make(map[uint32]fileName, len(in.dump.Files))
	for _, file := range in.dump.Files {
		in.names[file.GetId()] = nameFile(file)
	}
	in.openAt = make(map[uint32][]image.DescriptorRef)
	in.removed = make(map[uint32]struct{})
	if err := in.memfdNames(); err != nil {
		return err
	}
	if !in.dump.Has("remap-fpath.img") {
		return nil
	}
	remaps, err := image.ReadAll[remap.RemapFilePathEntry](in.dump, "remap-fpath.img", image.TypeRemapPath)
	for _, r := range remaps {
		if _, ghost := image.GhostID(r); ghost {
			in.removed[r.GetOrigId()] = struct{}{}
		}
	}
	return err
}

// memfdNames gives memfds the names that memfd_create(2) was called with. The
// kernel has one too for memory that is shared without a file.
func (in *inspection) memfdNames() error {
	if !in.dump.Has("memfd.img") {
		return nil
	}
	inodes, err := image.ReadAll[memfd.MemfdInodeEntry](in.dump, "memfd.img", image.TypeMemfdInode)
	names := make(map[uint64]string, len(inodes))
	for _, m := range inodes {
		names[m.GetInodeId()] = m.GetName()
	}
	for _, file := range in.dump.Files {
		if m := file.GetMemfd(); m != nil {
			in.names[file.GetId()] = fileName{FileMemfd, "memfd:" + names[uint64(m.GetInodeId())]}
		}
	}
	return err
}

func (in *inspection) processes(ctx context.Context) error {
	in.info.Processes = make([]Process, 0, len(in.dump.Tree))
	return in.dump.EachTask(ctx, func(t *image.Task) error {
		p := Process{
			PID:  int(t.Entry.GetPid()),
			PPID: int(t.Entry.GetPpid()),
			PGID: int(t.Entry.GetPgid()),
			SID:  int(t.Entry.GetSid()),
			Comm: t.Core.GetTc().GetComm(),

			State: processState(t.Core.GetTc().GetTaskState()),
		}
		p.Threads = make([]Thread, 0, len(t.Threads))
		p.Descriptors = make([]Descriptor, 0, len(t.FDs))
		if !t.Alive() {
			p.ExitCode = t.Core.GetTc().GetExitCode()
			in.info.Processes = append(in.info.Processes, p)
			return nil
		}
		for i, c := range t.Threads {
			creds := c.GetThreadCore().GetCreds()
			comm := c.GetThreadCore().GetComm()
			if comm == "" {
				comm = p.Comm
			}
			p.Threads = append(p.Threads, Thread{
				TID: int(t.Entry.GetThreads()[i]), Comm: comm, UID: creds.GetUid(), GID: creds.GetGid(),
			})
		}
		p.Exe = in.names[t.MM.GetExeFileId()].name
		p.Cwd = in.names[t.FS.GetCwdId()].name
		p.Root = in.names[t.FS.GetRootId()].name
		p.Objects = objects(t)
		for _, fd := range t.FDs {
			id := fd.GetId()
			name := in.names[id]
			p.Descriptors = append(p.Descriptors, Descriptor{
				FD: int(fd.GetFd()), File: id, Kind: name.kind, Name: name.name, CloseOnExec: fd.GetFlags()&1 != 0,
			})
			in.openAt[id] = append(in.openAt[id], image.DescriptorRef{PID: p.PID, FD: int(fd.GetFd())})
		}
		memory, err := in.memory(t)
		if err != nil {
			return fmt.Errorf("read process %d: %w", p.PID, err)
		}
		p.Memory = memory
		in.info.Processes = append(in.info.Processes, p)
		return nil
	})
}

func processState(s uint32) ProcessState {
	switch s {
	case image.TaskAlive:
		return ProcessAlive
	case image.TaskDead:
		return ProcessDead
	case image.TaskStopped:
		return ProcessStopped
	}
	return ProcessOther
}

func objects(t *image.Task) Objects {
	return Objects{
		Memory:   t.IDs.GetVmId(),
		FDTable:  t.IDs.GetFilesId(),
		FS:       t.IDs.GetFsId(),
		Handlers: t.IDs.GetSighandId(),
		PIDNS:    t.IDs.GetPidNsId(),
		NetNS:    t.IDs.GetNetNsId(),
		IPCNS:    t.IDs.GetIpcNsId(),
		UTSNS:    t.IDs.GetUtsNsId(),
		MountNS:  t.IDs.GetMntNsId(),
		UserNS:   t.IDs.GetUserNsId(),
		CgroupNS: t.IDs.GetCgroupNsId(),
		TimeNS:   t.IDs.GetTimeNsId(),
	}
}

// images lists the images, and counts their records where they have any.
func (in *inspection) images(ctx context.Context) error {
	in.info.Images = make([]ImageFile, 0, len(in.dump.Names))
	for _, name := range in.dump.Names {
		if err := ctx.Err(); err != nil {
			return err
		}
		file := ImageFile{Name: name, Type: "raw", SizeBytes: uint64(in.dump.Sizes[name])}
		if want, ok := image.TypeOf(name); ok {
			t, err := image.WalkFile(in.dump.FS, name, func(image.Type, []byte, uint64) error {
				file.Records++
				return nil
			})
			if err != nil {
				return err
			}
			if t == 0 { // an empty file
				t = want
			}
			file.Type = t.String()
		}
		in.info.Images = append(in.info.Images, file)
	}
	return nil
}

// statistics reads what CRIU measured, if it is still there.
func (in *inspection) statistics(context.Context) error {
	all, err := image.ReadAll[stats.StatsEntry](in.dump, "stats-dump", image.TypeStats)
	if err != nil || len(all) == 0 || all[0].GetDump() == nil {
		return image.Optional(err)
	}
	s := all[0].GetDump()
	in.info.Dump = &DumpStatistics{
		FreezingUS: s.GetFreezingTime(), FrozenUS: s.GetFrozenTime(),
		MemdumpUS: s.GetMemdumpTime(), MemwriteUS: s.GetMemwriteTime(),
		PagesScanned: s.GetPagesScanned(), PagesWritten: s.GetPagesWritten(),
	}
	return nil
}

func (in *inspection) totals() {
	sum := &in.info.Totals
	sum.Processes = len(in.info.Processes)
	sum.Files = len(in.info.Files)
	sum.Sockets = len(in.info.Sockets)
	for _, p := range in.info.Processes {
		sum.Threads += len(p.Threads)
		if p.Memory != nil {
			sum.MappedBytes += p.Memory.MappedBytes
			sum.ParentBytes += p.Memory.ParentBytes
		}
	}
	for _, file := range in.info.Images {
		sum.ImageBytes += file.SizeBytes
		if strings.HasPrefix(file.Name, "pages-") {
			sum.StoredBytes += file.SizeBytes
		}
	}
}
