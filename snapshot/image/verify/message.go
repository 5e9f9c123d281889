package verify

import (
	bpfmap_data "github.com/checkpoint-restore/go-criu/v8/crit/images/bpfmap-data"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/cgroup"
	core "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	file_lock "github.com/checkpoint-restore/go-criu/v8/crit/images/file-lock"
	pbfs "github.com/checkpoint-restore/go-criu/v8/crit/images/fs"
	ghost_file "github.com/checkpoint-restore/go-criu/v8/crit/images/ghost-file"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	ipc_msg "github.com/checkpoint-restore/go-criu/v8/crit/images/ipc-msg"
	ipc_sem "github.com/checkpoint-restore/go-criu/v8/crit/images/ipc-sem"
	ipc_shm "github.com/checkpoint-restore/go-criu/v8/crit/images/ipc-shm"
	ipc_var "github.com/checkpoint-restore/go-criu/v8/crit/images/ipc-var"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/memfd"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mm"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/mnt"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/netdev"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pidns"
	pipe_data "github.com/checkpoint-restore/go-criu/v8/crit/images/pipe-data"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	remap "github.com/checkpoint-restore/go-criu/v8/crit/images/remap-file-path"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	sk_packet "github.com/checkpoint-restore/go-criu/v8/crit/images/sk-packet"
	tcp_stream "github.com/checkpoint-restore/go-criu/v8/crit/images/tcp-stream"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/timens"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/tty"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/userns"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/utsns"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// checkMessage tells whether a message has all that CRIU requires in the nth
// record of an image. Of types that are not listed here, and of pagemaps, which
// have a parser of their own, it only looks at the wire format.
func checkMessage(t image.Type, n int, msg []byte) error {
	m := newMessage(t)
	switch {
	case t == image.TypeGhostFile && n > 0:
		m = new(ghost_file.GhostChunkEntry)
	case t == image.TypeIPCMsg:
		queue, err := image.IsMessageQueue(msg)
		if err != nil {
			return err
		}
		if !queue {
			m = new(ipc_msg.IpcMsg)
		}
	}
	if m != nil {
		return image.UnmarshalInto(msg, m)
	}
	s := wire.Scan(msg)
	for s.Next() {
	}
	return s.Err
}

func newMessage(t image.Type) proto.Message {
	//exhaustive:ignore
	switch t {
	case image.TypeInventory:
		return new(inventory.InventoryEntry)
	case image.TypePstree:
		return new(pstree.PstreeEntry)
	case image.TypeFdinfo:
		return new(fdinfo.FdinfoEntry)
	case image.TypeCore:
		return new(core.CoreEntry)
	case image.TypeIDs:
		return new(core.TaskKobjIdsEntry)
	case image.TypeMM:
		return new(mm.MmEntry)
	case image.TypeFS:
		return new(pbfs.FsEntry)
	case image.TypeFiles:
		return new(fdinfo.FileEntry)
	case image.TypePipesData, image.TypeFifoData:
		return new(pipe_data.PipeDataEntry)
	case image.TypeSkQueues:
		return new(sk_packet.SkPacketEntry)
	case image.TypeUTS:
		return new(utsns.UtsnsEntry)
	case image.TypeIPCVar:
		return new(ipc_var.IpcVarEntry)
	case image.TypeIPCShm:
		return new(ipc_shm.IpcShmEntry)
	case image.TypeIPCMsg:
		return new(ipc_msg.IpcMsgEntry)
	case image.TypeIPCSem:
		return new(ipc_sem.IpcSemEntry)
	case image.TypeRemapPath:
		return new(remap.RemapFilePathEntry)
	case image.TypeGhostFile:
		return new(ghost_file.GhostFileEntry)
	case image.TypeTCPStream:
		return new(tcp_stream.TcpStreamEntry)
	case image.TypeMounts:
		return new(mnt.MntEntry)
	case image.TypeTTYInfo:
		return new(tty.TtyInfoEntry)
	case image.TypeTTYData:
		return new(tty.TtyDataEntry)
	case image.TypeFileLocks:
		return new(file_lock.FileLockEntry)
	case image.TypeCgroup:
		return new(cgroup.CgroupEntry)
	case image.TypeSeccomp:
		return new(seccomp.SeccompEntry)
	case image.TypeMemfdInode:
		return new(memfd.MemfdInodeEntry)
	case image.TypeTimens:
		return new(timens.TimensEntry)
	case image.TypePidns:
		return new(pidns.PidnsEntry)
	case image.TypeUserns:
		return new(userns.UsernsEntry)
	case image.TypeNetns:
		return new(netdev.NetnsEntry)
	case image.TypeNetdev:
		return new(netdev.NetDeviceEntry)
	case image.TypeBPFMapData:
		return new(bpfmap_data.BpfmapDataEntry)
	}
	return nil
}
