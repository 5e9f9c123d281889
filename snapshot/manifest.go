package snapshot

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/snapctl/snapctl/snapshot/alarm"
	"github.com/snapctl/snapctl/snapshot/hostfile"
	"github.com/snapctl/snapctl/snapshot/memory"
	"github.com/snapctl/snapctl/snapshot/settings"
	"github.com/snapctl/snapctl/snapshot/sysv"
	"github.com/snapctl/snapctl/snapshot/terminal"
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

// Manifest describes a snapshot. It is a pure value: [Manifest.Validate] checks
// it without touching the system.
type Manifest struct {
	Version   int       `json:"version"`
	Name      string    `json:"name"`
	App       string    `json:"app"`
	CreatedAt time.Time `json:"created_at"`
	// SavedAt is when CRIU had saved the processes. The images say how long timers had
	// left at that moment. Zero in a snapshot of an older snapctl.
	SavedAt time.Time `json:"saved_at,omitzero"`
	// Alarm is the first timer of a hibernated app to expire; nil if none is armed.
	Alarm  *alarm.Alarm `json:"alarm,omitempty"`
	Origin Origin       `json:"origin"`

	Spec    *specs.Spec `json:"spec"` // what ran, and where
	Network string      `json:"network"`
	// Endpoint and Endpoint6 are the addresses by which the app knows itself.
	Endpoint  string `json:"endpoint"`
	Endpoint6 string `json:"endpoint6,omitempty"`
	// Policy is nil in a snapshot of an older snapctl.
	Policy *Policy `json:"policy,omitempty"`

	// External lists what CRIU did not save and a restore must provide.
	External []External `json:"external"`
	// WithStorage tells that the app's files are part of the snapshot; a
	// hibernated app's files stay where they are instead, but for /dev/shm,
	// which would not outlive a reboot.
	WithStorage bool `json:"with_storage"`
	Processes   int  `json:"processes"`
	// Connections is how many TCP connections the file of them has, both of whose ends
	// are the app's own.
	Connections int `json:"connections,omitempty"`
	// Settings are those of threads that CRIU does not save, where they are not as
	// usual.
	Settings []settings.Task `json:"settings,omitempty"`
	// SystemV are marks of System V objects that CRIU does not save.
	SystemV *sysv.Marks `json:"system_v,omitempty"`
	// Memory are the memory files that the images need and that lie outside of
	// the snapshot, since other snapshots and processes share them.
	Memory []Memory `json:"memory,omitempty"`
	// HostFiles are the files of the host that the processes had mapped or open, other
	// than below binds. Their content is in a store that snapshots share.
	HostFiles []hostfile.File `json:"host_files,omitempty"`
	// Bound are the files below binds that the processes had mapped or open.
	Bound []hostfile.Bound `json:"bound,omitempty"`
	// Layers are the app's files, the topmost layer first, if WithStorage.
	Layers []Layer `json:"layers,omitempty"`
	Files  []File  `json:"files"` // everything else in the directory
}

// Memory is one memory file. It is a pages image of this snapshot (then Image is a
// link to it), or was mapped by the processes when they were saved, or both.
type Memory struct {
	memory.File
	Image string   `json:"image,omitempty"` // "pages-1.img"
	Names []string `json:"names,omitempty"` // that CRIU's images have for it
}

// MemoryFiles lists the files of m.Memory.
func (m *Manifest) MemoryFiles() []memory.File {
	files := make([]memory.File, len(m.Memory))
	for i := range m.Memory {
		files[i] = m.Memory[i].File
	}
	return files
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

// ExternalKind is what an [External] stands for.
type ExternalKind string

// The kinds of external resources.
const (
	ExternalNet   ExternalKind = "net"    // the network namespace
	ExternalDev   ExternalKind = "dev"    // the mount at /dev
	ExternalBind  ExternalKind = "bind"   // a mount of a host path
	ExternalLog   ExternalKind = "log"    // standard output and error
	ExternalMount ExternalKind = "mount"  // a mount that keeps its content outside the images
	ExternalUnix  ExternalKind = "unix"   // a unix socket whose other end was outside of the app
	ExternalIPC   ExternalKind = "ipc"    // the ipc namespace
	ExternalQueue ExternalKind = "mqueue" // a POSIX message queue in it
	// ExternalEventfd is an eventfd with EFD_SEMAPHORE, of which CRIU saves the count alone.
	ExternalEventfd ExternalKind = "eventfd"
	// ExternalTerminal is a descriptor of /dev/tty; its Path is the terminal that it leads to.
	ExternalTerminal ExternalKind = "terminal"
	// ExternalPair is a pseudo-terminal in which something waits; see [terminal.Pair].
	ExternalPair ExternalKind = "terminal-pair"
	// ExternalFile is a file of a bind that CRIU knows by its mount and inode only.
	ExternalFile ExternalKind = "file"
	// ExternalMoved is the Path at which the file of a unix socket was last, if that is not
	// where it was bound.
	ExternalMoved ExternalKind = "moved"
	// ExternalWatch is the Path of what an inotify or fanotify instance watches; Device and
	// Inode are as in the images.
	ExternalWatch ExternalKind = "watch"
)

// External is one resource that a restore must provide.
type External struct {
	Kind   ExternalKind `json:"kind"`
	Key    string       `json:"key"`            // CRIU's name for it
	Path   string       `json:"path,omitempty"` // of a mount or file: where it is inside the app; of a terminal: /dev/pts/N
	Device uint32       `json:"device,omitempty"`
	// Inode and SocketType (SOCK_STREAM, ...) are those of a unix socket.
	Inode      uint64 `json:"inode,omitempty"`
	SocketType int    `json:"socket_type,omitempty"`
	// PID, as the app itself knows it, and FD are where a process has an eventfd,
	// a message queue, a file or /dev/tty open. PID is 0 if nobody has.
	PID int `json:"pid,omitempty"`
	FD  int `json:"fd,omitempty"`
	// Pair is what a terminal is like.
	Pair *terminal.Pair `json:"pair,omitempty"`
	// Queue is what a message queue is like.
	Queue *Queue `json:"queue,omitempty"`
	// Open says how a file is open.
	Open *OpenFile `json:"open,omitempty"`
}

// OpenFile is how a file is open.
type OpenFile struct {
	Flags    int   `json:"flags"`          // as in open(2)
	Position int64 `json:"position_bytes"` // as in lseek(2)
}

// Terminal is N of a terminal's /dev/pts/N.
func (e *External) Terminal() (number int, ok bool) {
	digits, ok := strings.CutPrefix(e.Path, terminalDir)
	number, err := strconv.Atoi(digits)
	return number, e.Kind == ExternalTerminal && ok && err == nil && number >= 0
}

// Pairs are the pseudo-terminals of m.External.
func (m *Manifest) Pairs() []terminal.Pair {
	var pairs []terminal.Pair
	for _, e := range m.External {
		if e.Kind == ExternalPair {
			pairs = append(pairs, *e.Pair)
		}
	}
	return pairs
}

// TerminalAt is the [External] for a descriptor of /dev/tty.
func TerminalAt(pid, fd, number int) External {
	return External{
		Kind: ExternalTerminal, Key: fmt.Sprintf("terminal[%d:%d]", pid, fd), Path: terminalDir + strconv.Itoa(number), PID: pid, FD: fd,
	}
}

const terminalDir = "/dev/pts/"

// Queue is a POSIX message queue without its messages.
type Queue struct {
	Name     string `json:"name"`               // with a slash
	Unlinked bool   `json:"unlinked,omitempty"` // it has this name no more
	Inode    uint64 `json:"inode"`              // tells it from others
	Mode     uint32 `json:"mode"`               // permissions
	UID      int    `json:"uid"`
	GID      int    `json:"gid"`
	Messages int    `json:"messages"`   // how many it takes
	Size     int    `json:"size_bytes"` // of the largest
	Flags    int    `json:"flags"`      // of an open one, as in open(2)
}

// File is one file of a snapshot.
type File struct {
	Path      string `json:"path"` // slash-separated, relative to the snapshot
	Type      string `json:"type"` // "file", "dir", "symlink", "other"
	SizeBytes int64  `json:"size_bytes,omitempty"`
	SHA256    string `json:"sha256,omitempty"` // of a file's bytes or a link's target
	Mode      uint32 `json:"mode"`             // st_mode
	// Marks and Links are those of a file of a storage layer.
	Marks
	Links int `json:"links,omitempty"` // st_nlink of a regular file, if it is more than 1
	// Stamp changes whenever the file is changed on this host; it stands in
	// for the digest where reading every byte again would cost too much. In the
	// list of a layer it tells what no digest does: owners, times and attributes.
	Stamp string `json:"stamp,omitempty"`
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
	for _, e := range m.External {
		if e.Kind == ExternalQueue && e.Queue == nil || e.Kind == ExternalFile && e.Open == nil {
			return bad("%s without a description", e.Kind)
		}
		switch e.Kind {
		case ExternalNet, ExternalLog, ExternalUnix, ExternalEventfd, ExternalIPC, ExternalQueue, ExternalFile, ExternalWatch, ExternalMoved:
		case ExternalPair:
			if e.Pair == nil {
				return bad("terminal without a description")
			}
		case ExternalTerminal:
			if _, ok := e.Terminal(); !ok {
				return bad("terminal %q", e.Path)
			}
		case ExternalDev, ExternalBind, ExternalMount:
			if !path.IsAbs(e.Path) || path.Clean(e.Path) != e.Path {
				return bad("mount path %q", e.Path)
			}
		default:
			return bad("external resource of kind %q", e.Kind)
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

// parseManifest reads and validates a manifest.
func parseManifest(b []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return &m, nil
}
