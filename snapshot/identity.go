package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/snapctl/snapctl/snapshot/memory"
)

// Identity is the same of two snapshots if one of them was taken from the other one's host. By it a host knows
// whether it has a snapshot of another one, whatever the names are there. What only says how the snapshot
// lies on its host is not in it: its name, its stamps, and the names of its layers.
func (m *Manifest) Identity() string {
	type file struct {
		Path, Type, SHA256 string
		Mode               uint32
	}
	type hostFile struct {
		Path   string
		SHA256 memory.ID
	}
	id := struct {
		App            string
		Created, Saved time.Time
		Memory         []memory.ID
		HostFiles      []hostFile
		Files          []file
	}{App: m.App, Created: m.CreatedAt.UTC(), Saved: m.SavedAt.UTC()}
	for i := range m.Memory {
		id.Memory = append(id.Memory, m.Memory[i].ID)
	}
	for i := range m.HostFiles {
		id.HostFiles = append(id.HostFiles, hostFile{m.HostFiles[i].Path, m.HostFiles[i].SHA256})
	}
	for _, f := range m.OwnFiles() {
		id.Files = append(id.Files, file{f.Path, f.Type, f.SHA256, f.Mode})
	}
	b, err := json.Marshal(id)
	if err != nil { // it has strings, numbers and times of a manifest that was read from JSON
		panic(fmt.Sprintf("encode the identity of a snapshot: %v", err))
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
