package output

import (
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// Snapshot is one snapshot.
type Snapshot struct {
	Name         string    `json:"name"`
	App          string    `json:"app"`
	CreatedAt    time.Time `json:"created_at,omitzero"`
	SizeBytes    int64     `json:"size_bytes"`    // its own
	MemoryBytes  int64     `json:"memory_bytes"`  // of that, of the processes
	StorageBytes int64     `json:"storage_bytes"` // of that, files that the app wrote
	Endpoint     string    `json:"endpoint"`
	Network      string    `json:"network"`
	Args         []string  `json:"args"`
	Processes    int32     `json:"processes"`
	Connections  int32     `json:"connections"` // inside the app, which copies have too
	CRIUVersion  string    `json:"criu_version"`
	Kernel       string    `json:"kernel"`
	// RestoreMemory is "copied", or mapped.
	RestoreMemory string `json:"restore_memory,omitempty"`

	Shared
}

// Shared is what a snapshot has in common with others, and with running apps.
type Shared struct {
	MemorySharedBytes  int64 `json:"memory_shared_bytes"`
	StorageSharedBytes int64 `json:"storage_shared_bytes"`
}

func (s Shared) text() string {
	if s.MemorySharedBytes+s.StorageSharedBytes == 0 {
		return ""
	}
	return Size(s.MemorySharedBytes + s.StorageSharedBytes)
}

// NewSnapshot reads the API's message.
func NewSnapshot(s *api.Snapshot) Snapshot {
	return Snapshot{
		Name: s.GetName(), App: s.GetApp(), CreatedAt: utc(s.GetCreatedAt()), SizeBytes: s.GetSizeBytes(),
		MemoryBytes: s.GetMemoryBytes(), StorageBytes: s.GetStorageBytes(), Endpoint: s.GetEndpoint(), Network: s.GetNetwork(),
		Args: list(s.GetArgs()), Processes: s.GetProcesses(), Connections: s.GetConnections(), CRIUVersion: s.GetCriuVersion(), Kernel: s.GetKernel(),
		RestoreMemory: restoreMemory(s.GetRestoreMemory()),
		Shared:        Shared{MemorySharedBytes: s.GetMemorySharedBytes(), StorageSharedBytes: s.GetStorageSharedBytes()},
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
	t.Rows([]string{"NAME", "APP", "AGE", "SIZE", "MEMORY", "FILES", "SHARED", "ENDPOINT", "COMMAND"},
		convert(d.Snapshots, func(s Snapshot) []string {
			return []string{
				s.Name, s.App, t.age(s.CreatedAt), Size(s.SizeBytes), Size(s.MemoryBytes), Size(s.StorageBytes),
				s.text(), s.Endpoint, shorten(Command(s.Args), 40),
			}
		}))
}
