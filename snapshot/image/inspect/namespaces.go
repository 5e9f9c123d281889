package inspect

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	ipc_desc "github.com/checkpoint-restore/go-criu/v8/crit/images/ipc-desc"
	ipc_msg "github.com/checkpoint-restore/go-criu/v8/crit/images/ipc-msg"
	ipc_sem "github.com/checkpoint-restore/go-criu/v8/crit/images/ipc-sem"
	ipc_shm "github.com/checkpoint-restore/go-criu/v8/crit/images/ipc-shm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/netdev"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/utsns"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// namespaces describes what belongs to namespaces rather than to processes.
func (in *inspection) namespaces(context.Context) error {
	in.info.Hosts, in.info.IPC = []Host{}, []IPC{}
	in.info.Mounts, in.info.Netns = []Mount{}, []Netns{}
	for _, step := range []struct {
		prefix string
		read   func(id uint32, name string) error
	}{
		{"utsns-", in.host},
		{"ipcns-var-", in.ipc},
		{"netns-", in.netns},
		{"mountpoints-", in.mounts},
	} {
		for _, name := range in.dump.Named(step.prefix) {
			number := strings.TrimSuffix(strings.TrimPrefix(name, step.prefix), ".img")
			id, err := strconv.ParseUint(number, 10, 32)
			if err != nil {
				continue // another image that begins the same, as netns-ct-9.img
			}
			if err := step.read(uint32(id), name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (in *inspection) host(id uint32, name string) error {
	uts, err := image.ReadOne[utsns.UtsnsEntry](in.dump, name, image.TypeUTS)
	if err != nil {
		return err
	}
	in.info.Hosts = append(in.info.Hosts, Host{Namespace: id, Name: uts.GetNodename(), DomainName: uts.GetDomainname()})
	return nil
}

func (in *inspection) netns(id uint32, name string) error {
	ns, err := image.ReadOne[netdev.NetnsEntry](in.dump, name, image.TypeNetns)
	if err != nil {
		return err
	}
	in.info.Netns = append(in.info.Netns, Netns{Namespace: id, External: ns.GetExtKey()})
	return nil
}

func (in *inspection) mounts(id uint32, name string) error {
	mounts, err := image.ReadAll[mnt.MntEntry](in.dump, name, image.TypeMounts)
	if err != nil {
		return err
	}
	for _, m := range mounts {
		in.info.Mounts = append(in.info.Mounts, Mount{
			Namespace: id, ID: m.GetMntId(), Parent: m.GetParentMntId(),
			Mountpoint: m.GetMountpoint(), Root: m.GetRoot(), FSType: fsType(m),
			Source: m.GetSource(), Options: m.GetOptions(), External: m.GetExtKey(),
			SharedID: m.GetSharedId(), MasterID: m.GetMasterId(),
		})
	}
	return nil
}

// fsType names a file system. CRIU names those that it has no number for.
func fsType(m *mnt.MntEntry) string {
	if name := m.GetFsname(); name != "" {
		return name
	}
	t := mnt.Fstype(m.GetFstype())
	if t == mnt.Fstype_OVERLAYFS {
		return "overlay" // as /proc/self/mounts has it
	}
	return strings.ToLower(t.String())
}

func (in *inspection) ipc(id uint32, _ string) error {
	ns := IPC{Namespace: id, SharedMemory: []SharedMemory{}, Semaphores: []SemaphoreSet{}, MessageQueues: []MessageQueue{}}
	for _, step := range []struct {
		t    image.Type
		read func([]byte) error
	}{
		{image.TypeIPCShm, func(msg []byte) error { return in.sharedMemory(&ns, msg) }},
		{image.TypeIPCSem, func(msg []byte) error { return semaphores(&ns, msg) }},
		{image.TypeIPCMsg, func(msg []byte) error { return messages(&ns, msg) }},
	} {
		// CRIU writes no image for a kind of object that there is none of.
		name := fmt.Sprintf("%s-%d.img", step.t, id)
		if !in.dump.Has(name) {
			continue
		}
		if err := in.dump.Each(name, step.t, step.read); err != nil {
			return err
		}
	}
	in.info.IPC = append(in.info.IPC, ns)
	return nil
}

func (in *inspection) sharedMemory(ns *IPC, msg []byte) error {
	shm, err := image.Unmarshal[ipc_shm.IpcShmEntry](msg)
	if err != nil {
		return err
	}
	stored := shm.GetSize()
	if shm.GetInPagemaps() {
		p, err := in.dump.ReadPagemap(fmt.Sprintf("pagemap-shmem-%d.img", shm.GetDesc().GetId()))
		if err != nil {
			return err
		}
		stored = p.StoredPages() * image.PageSize
	}
	ns.SharedMemory = append(ns.SharedMemory, SharedMemory{
		IPCObject: ipcObject(shm.GetDesc()), SizeBytes: shm.GetSize(), StoredBytes: stored,
	})
	return nil
}

func semaphores(ns *IPC, msg []byte) error {
	sem, err := image.Unmarshal[ipc_sem.IpcSemEntry](msg)
	if err != nil {
		return err
	}
	ns.Semaphores = append(ns.Semaphores, SemaphoreSet{IPCObject: ipcObject(sem.GetDesc()), Semaphores: sem.GetNsems()})
	return nil
}

// messages takes a queue, or a message of the last queue.
func messages(ns *IPC, msg []byte) error {
	queue, err := image.IsMessageQueue(msg)
	if err != nil {
		return err
	}
	if !queue {
		m, err := image.Unmarshal[ipc_msg.IpcMsg](msg)
		if err != nil {
			return err
		}
		if len(ns.MessageQueues) == 0 {
			return fmt.Errorf("read message: %w: it is in no queue", wire.ErrMalformed)
		}
		ns.MessageQueues[len(ns.MessageQueues)-1].Bytes += uint64(m.GetMsize())
		return nil
	}
	q, err := image.Unmarshal[ipc_msg.IpcMsgEntry](msg)
	if err != nil {
		return err
	}
	ns.MessageQueues = append(ns.MessageQueues, MessageQueue{
		IPCObject: ipcObject(q.GetDesc()), Messages: q.GetQnum(), MaxBytes: q.GetQbytes(),
	})
	return nil
}

func ipcObject(d *ipc_desc.IpcDescEntry) IPCObject {
	return IPCObject{
		ID: d.GetId(), Key: d.GetKey(), UID: d.GetUid(), GID: d.GetGid(), Mode: fmt.Sprintf("%04o", d.GetMode()&0o777),
	}
}

// ReadNamespaces reads all that a dump has of namespaces, and tells whether it can be read.
func ReadNamespaces(ctx context.Context, d *image.Dump) error {
	in := inspection{dump: d, info: &Info{}}
	return in.namespaces(ctx)
}
