package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/layer"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/settings"
	"github.com/snapctl/snapctl/snapshot/sysv"
	"github.com/snapctl/snapctl/snapshot/tree"
)

// ManifestVersion is the version of the format that this package writes.
const ManifestVersion = 1

// Names within a snapshot's directory.
const (
	manifestFile = "manifest.json"
	digestFile   = "manifest.sha256"
	imagesDir    = "images"
	storageDir   = "storage" // the app's writes to its root, until they are a layer
	shmDir       = "shm"     // the app's /dev/shm
	devDir       = "dev"     // what else it had made in /dev

	connectionsFile = "connections.bin"
	socketsFile     = "sockets.json"
	networkFile     = "network.json"
)

// ownFiles are those that a manifest can't describe: itself, and its digest.
var ownFiles = []string{manifestFile, digestFile} //nolint:gochecknoglobals // a constant

// Manifest describes a snapshot. It is a pure value: [Manifest.Validate] checks
// it without touching the system.
type Manifest struct {
	Version int    `json:"version"`
	Name    string `json:"name"`
	App     string `json:"app"`
	// Passing is a snapshot that an operation made for itself: a daemon that finds one removes it.
	Passing   bool      `json:"passing,omitempty"`
	CreatedAt time.Time `json:"created_at"`
	// SavedAt is when CRIU had saved the processes. The images say how long timers had
	// left at that moment. Zero in a snapshot of an older snapctl.
	SavedAt time.Time `json:"saved_at,omitzero"`
	// Alarm is the first timer of a hibernated app to expire; nil if none is armed.
	Alarm  *alarm.Alarm `json:"alarm,omitempty"`
	Origin Origin       `json:"origin"`

	Spec *specs.Spec `json:"spec"` // what ran, and where
	Address
	// Policy is nil in a snapshot of an older snapctl.
	Policy *Policy `json:"policy,omitempty"`

	// External lists what CRIU did not save and a restore must provide.
	External []External `json:"external"`
	// WithStorage tells that the app's files are part of the snapshot; a
	// hibernated app's files stay where they are instead, but for /dev/shm,
	// which would not outlive a reboot.
	WithStorage bool `json:"with_storage"`
	ProcessState
	Content
}

// Address is where an app is on the network.
type Address struct {
	Network string `json:"network"`
	// Endpoint and Endpoint6 are the addresses by which the app knows itself.
	Endpoint  string `json:"endpoint"`
	Endpoint6 string `json:"endpoint6,omitempty"`
}

// ProcessState is what a snapshot has of the processes beside CRIU's images.
type ProcessState struct {
	Processes int `json:"processes"`
	// Connections is how many TCP connections the file of them has, both of whose ends
	// are the app's own.
	Connections int `json:"connections,omitempty"`
	// Settings are those of threads that CRIU does not save, where they are not as
	// usual.
	Settings []settings.Task `json:"settings,omitempty"`
	// SystemV are marks of System V objects that CRIU does not save.
	SystemV *sysv.Marks `json:"system_v,omitempty"`
}

// Content is what a snapshot consists of.
type Content struct {
	// Memory are the memory files that the images need and that lie outside of
	// the snapshot, since other snapshots and processes share them.
	Memory []Memory `json:"memory,omitempty"`
	// HostFiles are the files of the host that the processes had mapped or open, other
	// than below binds. Their content is in a store that snapshots share.
	HostFiles []hostfile.File `json:"host_files,omitempty"`
	// Bound are the files below binds that the processes had mapped or open.
	Bound []hostfile.Bound `json:"bound,omitempty"`
	// Layers are the app's files, the topmost layer first, if WithStorage.
	Layers []layer.Ref `json:"layers,omitempty"`
	Files  []tree.File `json:"files"` // everything else in the directory
}

// Memory is one memory file. It is a pages image of this snapshot (then Image is a
// link to it), or was mapped by the processes when they were saved, or both; or the memory was copied to it
// while they ran, see package ahead.
type Memory struct {
	memory.File
	Image string   `json:"image,omitempty"` // "pages-1.img"
	Names []string `json:"names,omitempty"` // that CRIU's images have for it
	Ahead bool     `json:"ahead,omitempty"` // it was made for this snapshot while the processes ran
}

// Own tells whether the file was stored for this snapshot, and is not one that was there before.
func (m *Memory) Own() bool { return m.Image != "" || m.Ahead }

// MemoryFiles lists the files of m.Memory.
func (m *Manifest) MemoryFiles() []memory.File {
	files := make([]memory.File, len(m.Memory))
	for i := range m.Memory {
		files[i] = m.Memory[i].File
	}
	return files
}

// OwnFiles lists those of m.Files that are no links to memory files: what the directory of the
// snapshot has for itself.
func (m *Manifest) OwnFiles() []tree.File {
	links := make(map[string]bool)
	for i := range m.Memory {
		if m.Memory[i].Image != "" {
			links[imagesDir+"/"+m.Memory[i].Image] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(m.Files), func(f tree.File) bool { return links[f.Path] })
}

// BaseNames lists the names that CRIU's images have for memory files of earlier
// snapshots.
func (m *Manifest) BaseNames() []string {
	var names []string
	for i := range m.Memory {
		names = append(names, m.Memory[i].Names...)
	}
	return names
}

// Origin tells where a snapshot was made.
type Origin struct {
	Kernel      string `json:"kernel"`
	Arch        string `json:"arch"`
	CRIUVersion int    `json:"criu_version"`
}

// ErrInvalid is a manifest that does not make sense.
var ErrInvalid = errors.New("invalid snapshot manifest")

// Validate checks all that can be checked without the files. Returns an error
// wrapping ErrInvalid.
func (m *Manifest) Validate() error {
	switch {
	case m.Version != ManifestVersion:
		return bad("version %d, this snapctl reads %d", m.Version, ManifestVersion)
	case m.Spec == nil || m.Spec.Process == nil || m.Spec.Root == nil || len(m.Spec.Process.Args) == 0:
		return bad("no program in it")
	case ValidateName(m.App) != nil:
		return bad("app name %q", m.App)
	}
	if err := m.validateFiles(); err != nil {
		return err
	}
	for _, l := range m.Layers {
		if err := l.ID.Validate(); err != nil {
			return bad("%v", err)
		}
	}
	for i := range m.HostFiles {
		if err := m.HostFiles[i].Validate(); err != nil {
			return bad("%v", err)
		}
	}
	for i := range m.External {
		if err := m.External[i].validate(); err != nil {
			return err
		}
	}
	return nil
}

// validateFiles checks the lists of files: each leads into the snapshot, and of
// the images only those that a memory file is for are links.
func (m *Manifest) validateFiles() error {
	links := make(map[string]bool) // that images must be; whether they are
	for _, f := range m.Memory {
		if err := f.ID.Validate(); err != nil {
			return bad("%v", err)
		}
		if f.Image == "" {
			continue
		}
		name := imagesDir + "/" + f.Image
		if _, twice := links[name]; twice || path.Base(f.Image) != f.Image {
			return bad("pages image %q", f.Image)
		}
		links[name] = false
	}
	seen := make(map[string]bool, len(m.Files))
	for _, f := range m.Files {
		if !filepath.IsLocal(f.Path) || path.Clean(f.Path) != f.Path || f.Path == manifestFile || f.Path == digestFile {
			return bad("path %q leads out of the snapshot", f.Path)
		}
		if seen[f.Path] {
			return bad("path %q twice", f.Path)
		}
		seen[f.Path] = true
		top, image := path.Dir(f.Path) == ".", strings.HasPrefix(f.Path, imagesDir+"/")
		_, link := links[f.Path]
		switch {
		case !slices.Contains([]string{"file", "dir", "symlink", "other"}, f.Type):
			return bad("path %q has type %q", f.Path, f.Type)
		case link && f.Type == "symlink":
			links[f.Path] = true
		case link:
			return bad("path %q is no link to its memory file", f.Path)
		case (top || image) && f.Type != "file" && f.Type != "dir":
			// CRIU and the copying of files would follow a link, and wait for a FIFO.
			return bad("path %q has type %q and leads out of the snapshot", f.Path, f.Type)
		}
	}
	if m.Connections < 0 || m.Connections > 0 && !seen[connectionsFile] {
		return bad("%d connections, without a file of them", m.Connections)
	}
	for name, found := range links {
		if !found {
			return bad("path %q is missing", name)
		}
	}
	return nil
}

// bad is an error wrapping ErrInvalid.
func bad(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrInvalid, fmt.Sprintf(format, args...))
}

// ValidateName checks the name of an app or of a snapshot: up to 63 letters,
// digits, '.', '_' and '-', beginning with a letter or digit.
func ValidateName(name string) error {
	ok := name != "" && len(name) <= 63
	for i, r := range name {
		alnum := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
		ok = ok && (alnum || i > 0 && strings.ContainsRune("._-", r))
	}
	if !ok {
		return fmt.Errorf("name %q: use up to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit", name)
	}
	return nil
}

// ParseManifest reads a manifest, and validates it.
func ParseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return &m, nil
}
