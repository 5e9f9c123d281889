// Package inspect tells what a dump says about the processes in it: their threads,
// memory, open files and sockets, and the namespaces around them.
//
// [Read] reads it all, as an [Info]: plain data with JSON names, made for showing.
// [Sockets] reads the sockets alone, and is much faster. Neither changes anything.
package inspect

import (
	"encoding/json"
	"fmt"
	"net/netip"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Info is what a dump says about what it holds. All of it is plain data, made
// for showing; lists are in the order of the dump, which for processes puts
// parents first.
//
// Process, thread, session and IPC ids are those that the processes
// themselves see.
type Info struct {
	// Version is the version of the image format: 1, or 2 for images with a
	// common magic (format 1.1).
	Version uint32 `json:"image_version"`

	// TCPClosed is set if CRIU did not save the state of connections, since
	// something else keeps them or nobody needs them.
	TCPClosed bool `json:"tcp_closed"`

	// Incremental is set if the dump builds on another one.
	Incremental bool `json:"incremental"`

	Processes []Process       `json:"processes"`
	Files     []File          `json:"files"`
	Sockets   []Socket        `json:"sockets"`
	Hosts     []Host          `json:"hosts"`
	IPC       []IPC           `json:"ipc"`
	Mounts    []Mount         `json:"mounts"`
	Netns     []Netns         `json:"network_namespaces"`
	Images    []ImageFile     `json:"images"`
	Totals    Totals          `json:"totals"`
	Dump      *DumpStatistics `json:"dump,omitempty"`
}

// Totals sums up a dump.
type Totals struct {
	Processes   int    `json:"processes"`
	Threads     int    `json:"threads"`
	Files       int    `json:"files"`
	Sockets     int    `json:"sockets"`
	MappedBytes uint64 `json:"mapped_bytes"` // address space of all processes
	StoredBytes uint64 `json:"stored_bytes"` // memory in this dump, shared memory included
	ParentBytes uint64 `json:"parent_bytes"` // memory that is in the parent dump
	ImageBytes  uint64 `json:"image_bytes"`  // all images
}

// ImageFile is one file of a dump.
type ImageFile struct {
	Name      string `json:"name"`
	Type      string `json:"type"` // raw for pages and for output of other programs
	SizeBytes uint64 `json:"size_bytes"`
	Records   int    `json:"records,omitempty"`
}

// DumpStatistics are CRIU's own measurements. Freezing is the time until all
// processes stood still, frozen the time that they did.
type DumpStatistics struct {
	FreezingUS   uint32 `json:"freezing_us"`
	FrozenUS     uint32 `json:"frozen_us"`
	MemdumpUS    uint32 `json:"memdump_us"`
	MemwriteUS   uint32 `json:"memwrite_us"`
	PagesScanned uint64 `json:"pages_scanned"`
	PagesWritten uint64 `json:"pages_written"`
}

// Process is one process of a dump.
type Process struct {
	PID      int          `json:"pid"`
	PPID     int          `json:"ppid"` // 0 for the root
	PGID     int          `json:"pgid"` // 0 if the group is led from outside the pid namespace
	SID      int          `json:"sid"`  // likewise
	Comm     string       `json:"comm"`
	State    ProcessState `json:"state"`
	ExitCode uint32       `json:"exit_code,omitempty"` // of a dead one, as wait(2) would tell
	Threads  []Thread     `json:"threads"`

	// The others are empty for a dead process.

	Exe         string         `json:"exe,omitempty"`
	Cwd         string         `json:"cwd,omitempty"`
	Root        string         `json:"root,omitempty"`
	Objects     Objects        `json:"objects"`
	Descriptors []Descriptor   `json:"descriptors"`
	Memory      *ProcessMemory `json:"memory,omitempty"`
}

// ProcessState is the state in which a process was found.
type ProcessState string

// The states of a process (compel/include/uapi/task-state.h).
const (
	ProcessAlive   ProcessState = "alive"
	ProcessDead    ProcessState = "dead" // exited, not yet waited for
	ProcessStopped ProcessState = "stopped"
	ProcessOther   ProcessState = "other"
)

// Thread is one thread of a process.
type Thread struct {
	TID  int    `json:"tid"`
	Comm string `json:"comm"`
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
}

// Objects are CRIU's numbers for the kernel objects that processes can share:
// two processes with the same number share the object. 0 stands for unknown.
type Objects struct {
	Memory   uint32 `json:"memory,omitempty"`
	FDTable  uint32 `json:"fd_table,omitempty"`
	FS       uint32 `json:"fs,omitempty"`
	Handlers uint32 `json:"signal_handlers,omitempty"`

	PIDNS    uint32 `json:"pid_ns,omitempty"`
	NetNS    uint32 `json:"net_ns,omitempty"`
	IPCNS    uint32 `json:"ipc_ns,omitempty"`
	UTSNS    uint32 `json:"uts_ns,omitempty"`
	MountNS  uint32 `json:"mount_ns,omitempty"`
	UserNS   uint32 `json:"user_ns,omitempty"`
	CgroupNS uint32 `json:"cgroup_ns,omitempty"`
	TimeNS   uint32 `json:"time_ns,omitempty"`
}

// Descriptor is a file descriptor of a process.
type Descriptor struct {
	FD          int      `json:"fd"`
	File        uint32   `json:"file"` // File.ID; the same for descriptors that dup(2) or fork(2) made
	Kind        FileKind `json:"kind"`
	Name        string   `json:"name"`
	CloseOnExec bool     `json:"close_on_exec,omitempty"`
}

// FileKind tells what an open file is.
type FileKind string

// File is an open file description. Several descriptors of several processes
// may refer to it.
type File struct {
	ID   uint32   `json:"id"`
	Kind FileKind `json:"kind"`
	Name string   `json:"name"` // like the links in /proc/PID/fd

	// The others are known for regular files, devices and directories only.

	Flags         string  `json:"flags,omitempty"` // of open(2), octal
	PositionBytes uint64  `json:"position_bytes,omitempty"`
	SizeBytes     *uint64 `json:"size_bytes,omitempty"` // nil if a restore does not compare it
	Removed       bool    `json:"removed,omitempty"`    // has no name any more: CRIU saved its content
	External      bool    `json:"external,omitempty"`   // Name is the key under which a restore has to be given it

	OpenAt []image.DescriptorRef `json:"open_at"`
}

// Address is a virtual memory address. In JSON it is a string like "0x7f00".
type Address uint64

// MarshalJSON writes the address as a string: a number would lose digits in
// readers that only know floating point.
func (a Address) MarshalJSON() ([]byte, error) { return json.Marshal(a.String()) }

// String returns the address as "0x7f00".
func (a Address) String() string { return fmt.Sprintf("%#x", uint64(a)) }

// Host is the identity in a UTS namespace.
type Host struct {
	Namespace  uint32 `json:"namespace"`
	Name       string `json:"name"`
	DomainName string `json:"domain_name"`
}

// Netns is a network namespace.
type Netns struct {
	Namespace uint32 `json:"namespace"`

	// External is the key under which a restore has to be given it. It is
	// empty for a namespace that CRIU saved.
	External string `json:"external,omitempty"`
}

// Mount is one mount of a mount namespace.
type Mount struct {
	Namespace  uint32 `json:"namespace"`
	ID         uint32 `json:"id"`
	Parent     uint32 `json:"parent"`
	Mountpoint string `json:"mountpoint"`
	Root       string `json:"root"` // which part of the file system is mounted
	FSType     string `json:"fs_type"`
	Source     string `json:"source"`
	Options    string `json:"options,omitempty"`
	External   string `json:"external,omitempty"` // the key under which a restore has to be given it
	SharedID   uint32 `json:"shared_id,omitempty"`
	MasterID   uint32 `json:"master_id,omitempty"`
}

// IPC holds the System V objects of an IPC namespace.
type IPC struct {
	Namespace     uint32         `json:"namespace"`
	SharedMemory  []SharedMemory `json:"shared_memory"`
	Semaphores    []SemaphoreSet `json:"semaphores"`
	MessageQueues []MessageQueue `json:"message_queues"`
}

// IPCObject is what all System V objects have.
type IPCObject struct {
	ID   uint32 `json:"id"`
	Key  uint32 `json:"key"` // 0 for private
	UID  uint32 `json:"uid"`
	GID  uint32 `json:"gid"`
	Mode string `json:"mode"` // octal, like 0600
}

// SharedMemory is a segment of shmget(2).
type SharedMemory struct {
	IPCObject
	SizeBytes   uint64 `json:"size_bytes"`
	StoredBytes uint64 `json:"stored_bytes"`
}

// SemaphoreSet is what semget(2) makes.
type SemaphoreSet struct {
	IPCObject
	Semaphores uint32 `json:"semaphores"`
}

// MessageQueue is what msgget(2) makes, with what waits in it.
type MessageQueue struct {
	IPCObject
	Messages uint32 `json:"messages"`
	Bytes    uint64 `json:"bytes"`
	MaxBytes uint32 `json:"max_bytes"`
}

// Socket is an open socket, of the internet or unix family.
type Socket struct {
	File     uint32 `json:"file"` // File.ID
	Inode    uint64 `json:"inode"`
	NetNS    uint32 `json:"net_ns,omitempty"` // Objects.NetNS
	Family   string `json:"family"`           // inet, inet6, unix
	Protocol string `json:"protocol"`         // tcp, udp, ...; stream, dgram, seqpacket for unix
	State    string `json:"state"`            // ESTABLISHED, LISTEN, ...

	Local  netip.AddrPort `json:"local,omitzero"`
	Remote netip.AddrPort `json:"remote,omitzero"`

	// Path is the name of a unix socket; the abstract ones begin with @.
	// PeerInode is the unix socket at the other end, External tells that this
	// socket is no file of the dump but stands for one outside of it.
	Path      string `json:"path,omitempty"`
	PeerInode uint64 `json:"peer_inode,omitempty"`
	External  bool   `json:"external,omitempty"`

	Options SocketOptions         `json:"options"`
	Queue   *SocketQueue          `json:"queue,omitempty"` // nil if CRIU saved none
	OpenAt  []image.DescriptorRef `json:"open_at"`
}

// SocketQueue is the data that was on its way, as far as CRIU saved it.
type SocketQueue struct {
	ReceivedBytes uint64 `json:"received_bytes"` // not yet read
	UnackedBytes  uint64 `json:"unacked_bytes"`  // written, not yet acknowledged by the peer
	UnsentBytes   uint64 `json:"unsent_bytes"`   // part of UnackedBytes: not yet on the wire

	// Packets are the messages in ReceivedBytes, FilesPassed the descriptors
	// that come with them (SCM_RIGHTS). Unix sockets only.
	Packets     int `json:"packets,omitempty"`
	FilesPassed int `json:"files_passed,omitempty"`
}

// SocketOptions are the options that most often matter.
type SocketOptions struct {
	Backlog       uint32 `json:"backlog,omitempty"` // of a listener
	SendBuffer    uint32 `json:"send_buffer_bytes"`
	ReceiveBuffer uint32 `json:"receive_buffer_bytes"`
	Shutdown      string `json:"shutdown,omitempty"` // read, write, both
	Nonblock      bool   `json:"nonblock,omitempty"`
	ReuseAddr     bool   `json:"reuse_addr,omitempty"`
	ReusePort     bool   `json:"reuse_port,omitempty"`
	KeepAlive     bool   `json:"keep_alive,omitempty"`
	NoDelay       bool   `json:"no_delay,omitempty"`
	IPv6Only      bool   `json:"ipv6_only,omitempty"`
	BoundDevice   string `json:"bound_device,omitempty"`
}
