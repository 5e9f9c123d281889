package image

import (
	"fmt"
	"strconv"
	"strings"
)

// Type tells what the records of an image are. Its value is the magic number
// that CRIU writes (criu/include/magic.h).
type Type uint32

// The types of image that this package knows something about.
const (
	TypeInventory    Type = 0x58313116
	TypePstree       Type = 0x50273030
	TypeFdinfo       Type = 0x56213732
	TypePagemap      Type = 0x56084025
	TypeCore         Type = 0x55053847
	TypeIDs          Type = 0x54432030
	TypeMM           Type = 0x57492820
	TypeFS           Type = 0x51403912
	TypeFiles        Type = 0x56303138
	TypePipesData    Type = 0x56453709
	TypeFifoData     Type = 0x59333054
	TypeSkQueues     Type = 0x56264026
	TypeUTS          Type = 0x54473203
	TypeIPCVar       Type = 0x53115007
	TypeIPCShm       Type = 0x46283044
	TypeIPCMsg       Type = 0x55453737
	TypeIPCSem       Type = 0x59573019
	TypeRemapPath    Type = 0x59133954
	TypeGhostFile    Type = 0x52583605
	TypeTCPStream    Type = 0x51465506
	TypeEpollTarget  Type = 0x44433746
	TypeMounts       Type = 0x55563928
	TypeTTYInfo      Type = 0x59453036
	TypeTTYData      Type = 0x59413026
	TypeFileLocks    Type = 0x54323616
	TypeCgroup       Type = 0x59383330
	TypeCPUInfo      Type = 0x61404013
	TypeSeccomp      Type = 0x64413049
	TypeMemfdInode   Type = 0x48453499
	TypeTimens       Type = 0x43114433
	TypePidns        Type = 0x61157326
	TypeUserns       Type = 0x55474906
	TypeNetns        Type = 0x55933752
	TypeBPFMapData   Type = 0x64324033
	TypeInotifyWatch Type = 0x54562009
	TypeFanotifyMark Type = 0x56506035
	TypeApparmor     Type = 0x59423047
	TypeAutofs       Type = 0x49353943
	TypeBinfmtMisc   Type = 0x67343323
	TypeNetdev       Type = 0x57373951
	TypePidFD        Type = 0x54435556
	TypeStats        Type = 0x57093306
	TypeIrmapCache   Type = 0x57004059
)

// The magic numbers in front of the type since image format 1.1.
const (
	magicCommon  = 0x54564319 // all images but the inventory
	magicService = 0x55105940 // stats and irmap cache
)

// typeNames holds the name of each known type, as CRIU's own tools have it and
// as the names of images begin. It is never changed.
var typeNames = [...]struct {
	t    Type
	name string
}{
	{TypeInventory, "inventory"},
	{TypePstree, "pstree"},
	{TypeFdinfo, "fdinfo"},
	{TypePagemap, "pagemap"},
	{TypeCore, "core"},
	{TypeIDs, "ids"},
	{TypeMM, "mm"},
	{TypeFS, "fs"},
	{TypeFiles, "files"},
	{TypePipesData, "pipes-data"},
	{TypeFifoData, "fifo-data"},
	{TypeSkQueues, "sk-queues"},
	{TypeUTS, "utsns"},
	{TypeIPCVar, "ipcns-var"},
	{TypeIPCShm, "ipcns-shm"},
	{TypeIPCMsg, "ipcns-msg"},
	{TypeIPCSem, "ipcns-sem"},
	{TypeRemapPath, "remap-fpath"},
	{TypeGhostFile, "ghost-file"},
	{TypeTCPStream, "tcp-stream"},
	{TypeEpollTarget, "eventpoll-tfd"},
	{TypeMounts, "mountpoints"},
	{TypeTTYInfo, "tty-info"},
	{TypeTTYData, "tty-data"},
	{TypeFileLocks, "filelocks"},
	{TypeCgroup, "cgroup"},
	{TypeCPUInfo, "cpuinfo"},
	{TypeSeccomp, "seccomp"},
	{TypeMemfdInode, "memfd"},
	{TypeTimens, "timens"},
	{TypePidns, "pidns"},
	{TypeUserns, "userns"},
	{TypeNetns, "netns"},
	{TypeBPFMapData, "bpfmap-data"},
	{TypeInotifyWatch, "inotify-wd"},
	{TypeFanotifyMark, "fanotify-mark"},
	{TypeApparmor, "apparmor"},
	{TypeAutofs, "autofs"},
	{TypeBinfmtMisc, "binfmt-misc"},
	{TypeNetdev, "netdev"},
	{TypePidFD, "pidfd"},
	{TypeStats, "stats"},
	{TypeIrmapCache, "irmap-cache"},
}

// String returns the name that CRIU gives to images of the type.
func (t Type) String() string {
	for _, known := range typeNames {
		if known.t == t {
			return known.name
		}
	}
	return fmt.Sprintf("type-%#08x", uint32(t))
}

// known tells whether this package has a name for the type.
func (t Type) known() bool {
	for _, known := range typeNames {
		if known.t == t {
			return true
		}
	}
	return false
}

// TypeOf tells what type an image of this name has, if it has records at all.
// Names are a type's name and, for most, a number behind it; the images of
// memory, of what other programs wrote, and of plugins have none.
func TypeOf(name string) (Type, bool) {
	stem := strings.TrimSuffix(name, ".img")
	for _, known := range typeNames {
		rest, ok := strings.CutPrefix(stem, known.name)
		if !ok {
			continue
		}
		if rest == "" {
			return known.t, true
		}
		id, numbered := strings.CutPrefix(strings.TrimPrefix(rest, "-shmem"), "-")
		if _, err := strconv.ParseUint(id, 16, 64); numbered && err == nil {
			return known.t, true
		}
	}
	return 0, false
}
