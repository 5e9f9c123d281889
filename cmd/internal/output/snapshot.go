package output

import (
	"fmt"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// Snapshot is one snapshot.
type Snapshot struct {
	Name      string    `json:"name"`
	App       string    `json:"app"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	Sizes
	Endpoint    string   `json:"endpoint"`
	Network     string   `json:"network"`
	Args        []string `json:"args"`
	Processes   int32    `json:"processes"`
	Connections int32    `json:"connections"` // inside the app, which copies have too
	CRIUVersion string   `json:"criu_version"`
	Kernel      string   `json:"kernel"`
	// RestoreMemory is "copied", or mapped.
	RestoreMemory string `json:"restore_memory,omitempty"`

	// AcceptChangedFiles has what is made of it come back without files below binds.
	AcceptChangedFiles bool `json:"accept_changed_files,omitempty"`

	Shared

	WouldNotStart []Obstacle `json:"would_not_start,omitempty"`
}

// Sizes is what a snapshot takes by itself.
type Sizes struct {
	SizeBytes      int64 `json:"size_bytes"`       // all of it
	MemoryBytes    int64 `json:"memory_bytes"`     // of that, of the processes
	StorageBytes   int64 `json:"storage_bytes"`    // of that, files that the app wrote
	HostFilesBytes int64 `json:"host_files_bytes"` // of that, files of the host that are kept
}

func (s Sizes) text() string {
	text := fmt.Sprintf("%s: memory %s, files %s", Size(s.SizeBytes), Size(s.MemoryBytes), Size(s.StorageBytes))
	if s.HostFilesBytes > 0 {
		text += ", kept files of the host " + Size(s.HostFilesBytes)
	}
	return text
}

// Shared is what a snapshot has in common with others, and with running apps.
type Shared struct {
	MemorySharedBytes    int64 `json:"memory_shared_bytes"`
	StorageSharedBytes   int64 `json:"storage_shared_bytes"`
	HostFilesSharedBytes int64 `json:"host_files_shared_bytes"`
}

func (s Shared) sum() int64 {
	return s.MemorySharedBytes + s.StorageSharedBytes + s.HostFilesSharedBytes
}

// detail says of what it is; nothing if there is none.
func (s Shared) detail() string {
	if s.sum() == 0 {
		return ""
	}
	text := fmt.Sprintf("memory %s, files %s", Size(s.MemorySharedBytes), Size(s.StorageSharedBytes))
	if s.HostFilesSharedBytes > 0 {
		text += ", kept files of the host " + Size(s.HostFilesSharedBytes)
	}
	return text
}

func (s Shared) text() string {
	if s.sum() == 0 {
		return ""
	}
	return Size(s.sum())
}

// NewSnapshot reads the API's message.
func NewSnapshot(s *api.Snapshot) Snapshot {
	return Snapshot{
		Name: s.GetName(), App: s.GetApp(), CreatedAt: utc(s.GetCreatedAt()),
		Sizes: Sizes{
			SizeBytes: s.GetSizeBytes(), MemoryBytes: s.GetMemoryBytes(), StorageBytes: s.GetStorageBytes(), HostFilesBytes: s.GetHostFilesBytes(),
		},
		Endpoint: s.GetEndpoint(), Network: s.GetNetwork(),
		Args: list(s.GetArgs()), Processes: s.GetProcesses(), Connections: s.GetConnections(), CRIUVersion: s.GetCriuVersion(), Kernel: s.GetKernel(),
		RestoreMemory: restoreMemory(s.GetRestoreMemory()), AcceptChangedFiles: s.GetAcceptChangedFiles(),
		Shared: Shared{
			MemorySharedBytes: s.GetMemorySharedBytes(), StorageSharedBytes: s.GetStorageSharedBytes(), HostFilesSharedBytes: s.GetHostFilesSharedBytes(),
		},
		WouldNotStart: obstacles(s.GetWouldNotStart()),
	}
}

// SnapshotList is what snapshots prints.
type SnapshotList struct {
	Schema
	Snapshots []Snapshot `json:"snapshots"`
}

// NewSnapshotList reads the API's messages.
func NewSnapshotList(all []*api.Snapshot) *SnapshotList {
	return &SnapshotList{Schema: schema(), Snapshots: convert(all, NewSnapshot)}
}

// Table implements [Document].
func (d *SnapshotList) Table(t *Table) {
	rows := convert(d.Snapshots, func(s Snapshot) []string {
		return []string{
			s.Name, s.App, t.age(s.CreatedAt), Size(s.SizeBytes), Size(s.MemoryBytes), Size(s.StorageBytes),
			s.Shared.text(), s.Endpoint, shorten(Command(s.Args), 40),
		}
	})
	head := []string{"NAME", "APP", "AGE", "SIZE", "MEMORY", "FILES", "SHARED", "ENDPOINT", "COMMAND"}
	t.Rows(warn(head, rows, convert(d.Snapshots, func(s Snapshot) []Obstacle { return s.WouldNotStart })))
}
