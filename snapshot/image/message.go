package image

import (
	"github.com/snapctl/snapctl/snapshot/image/wire"

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
)

// checkMessage tells whether a message has all that CRIU requires in the nth
// record of an image. Of types that are not listed here, and of pagemaps, which
// have a parser of their own, it only looks at the wire format.
func checkMessage(t Type, n int, msg []byte) error {
	m := newMessage(t)
	switch {
	case t == TypeGhostFile && n > 0:
		m = new(ghost_file.GhostChunkEntry)
	case t == TypeIPCMsg:
		queue, err := isMessageQueue(msg)
		if err != nil {
			return err
		}
		if !queue {
			m = new(ipc_msg.IpcMsg)
		}
	}
	if m != nil {
		return unmarshalInto(msg, m)
	}
	s := wire.Scan(msg)
	for s.Next() {
	}
	return s.Err
}

func newMessage(t Type) proto.Message {
	//exhaustive:ignore
	switch t {
	case TypeInventory:
		return new(inventory.InventoryEntry)
	case TypePstree:
		return new(pstree.PstreeEntry)
	case TypeFdinfo:
		return new(fdinfo.FdinfoEntry)
	case TypeCore:
		return new(core.CoreEntry)
	case TypeIDs:
		return new(core.TaskKobjIdsEntry)
	case TypeMM:
		return new(mm.MmEntry)
	case TypeFS:
		return new(pbfs.FsEntry)
	case TypeFiles:
		return new(fdinfo.FileEntry)
	case TypePipesData, TypeFifoData:
		return new(pipe_data.PipeDataEntry)
	case TypeSkQueues:
		return new(sk_packet.SkPacketEntry)
	case TypeUTS:
		return new(utsns.UtsnsEntry)
	case TypeIPCVar:
		return new(ipc_var.IpcVarEntry)
	case TypeIPCShm:
		return new(ipc_shm.IpcShmEntry)
	case TypeIPCMsg:
		return new(ipc_msg.IpcMsgEntry)
	case TypeIPCSem:
		return new(ipc_sem.IpcSemEntry)
	case TypeRemapPath:
		return new(remap.RemapFilePathEntry)
	case TypeGhostFile:
		return new(ghost_file.GhostFileEntry)
	case TypeTCPStream:
		return new(tcp_stream.TcpStreamEntry)
	case TypeMounts:
		return new(mnt.MntEntry)
	case TypeTTYInfo:
		return new(tty.TtyInfoEntry)
	case TypeTTYData:
		return new(tty.TtyDataEntry)
	case TypeFileLocks:
		return new(file_lock.FileLockEntry)
	case TypeCgroup:
		return new(cgroup.CgroupEntry)
	case TypeSeccomp:
		return new(seccomp.SeccompEntry)
	case TypeMemfdInode:
		return new(memfd.MemfdInodeEntry)
	case TypeTimens:
		return new(timens.TimensEntry)
	case TypePidns:
		return new(pidns.PidnsEntry)
	case TypeUserns:
		return new(userns.UsernsEntry)
	case TypeNetns:
		return new(netdev.NetnsEntry)
	case TypeNetdev:
		return new(netdev.NetDeviceEntry)
	case TypeBPFMapData:
		return new(bpfmap_data.BpfmapDataEntry)
	}
	return nil
}
