package snapshot

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	"github.com/snapctl/snapctl/snapshot/image/pty"
	"github.com/snapctl/snapctl/snapshot/stdio"
	"github.com/snapctl/snapctl/snapshot/terminal"
)

// ExternalKind is what an [External] stands for.
type ExternalKind string

// The kinds of external resources.
const (
	ExternalNet   ExternalKind = "net"    // the network namespace
	ExternalDev   ExternalKind = "dev"    // the mount at /dev
	ExternalBind  ExternalKind = "bind"   // a mount of a host path
	ExternalLog   ExternalKind = "log"    // standard output and error, a regular file
	ExternalMount ExternalKind = "mount"  // a mount that keeps its content outside the images
	ExternalUnix  ExternalKind = "unix"   // a unix socket whose other end was outside of the app
	ExternalIPC   ExternalKind = "ipc"    // the ipc namespace
	ExternalQueue ExternalKind = "mqueue" // a POSIX message queue in it
	// ExternalFIFO is a standard stream that is a FIFO with somebody outside at the other end.
	ExternalFIFO ExternalKind = "fifo"
	// ExternalConsole are standard streams that are a terminal whose master is somebody else's.
	ExternalConsole ExternalKind = "console"
	// ExternalEventfd is an eventfd with EFD_SEMAPHORE, of which CRIU saves the count alone.
	ExternalEventfd ExternalKind = "eventfd"
	// ExternalTerminal is a descriptor of /dev/tty; its Path is the terminal that it leads to
	// (/dev/console: the one of ExternalConsole).
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
	// a message queue, a file or /dev/tty open. PID is 0 if nobody has. FD is also the
	// descriptor that a standard stream is meant for (0 for a log of an older snapctl).
	PID int `json:"pid,omitempty"`
	FD  int `json:"fd,omitempty"`
	// Pair is what a terminal is like.
	Pair *terminal.Pair `json:"pair,omitempty"`
	// Queue is what a message queue is like.
	Queue *Queue `json:"queue,omitempty"`
	// Open says how a file or a standard stream is open.
	Open *OpenFile `json:"open,omitempty"`
}

// OpenFile is how a file is open.
type OpenFile struct {
	Flags    int   `json:"flags"`          // as in open(2)
	Position int64 `json:"position_bytes"` // as in lseek(2)
}

// Terminal is N of a terminal's /dev/pts/N, or [pty.Console].
func (e *External) Terminal() (number int, ok bool) {
	if e.Kind == ExternalTerminal && e.Path == consolePath {
		return pty.Console, true
	}
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
func TerminalAt(c terminal.Control) External {
	e := External{Kind: ExternalTerminal, Key: fmt.Sprintf("terminal[%d:%d]", c.PID, c.FD), Path: terminalDir + strconv.Itoa(c.Number), PID: c.PID, FD: c.FD}
	if c.Console {
		e.Path = consolePath
	}
	return e
}

const (
	terminalDir = "/dev/pts/"
	consolePath = "/dev/console"
)

// StreamOf is the [External] for a standard stream.
func StreamOf(s stdio.Stream) External {
	e := External{Kind: ExternalLog, Key: s.Key, FD: s.FD}
	switch s.Kind {
	case stdio.File:
		return e
	case stdio.FIFO:
		e.Kind = ExternalFIFO
	case stdio.Terminal:
		e.Kind = ExternalConsole
	}
	e.Open = &OpenFile{Flags: s.Flags}
	return e
}

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

// validate checks what can be checked without the files.
func (e *External) validate() error {
	if e.Kind == ExternalQueue && e.Queue == nil || e.Kind == ExternalFile && e.Open == nil {
		return bad("%s without a description", e.Kind)
	}
	switch e.Kind {
	case ExternalLog, ExternalFIFO, ExternalConsole:
		if e.FD < 0 || e.FD > 2 {
			return bad("standard stream %d", e.FD)
		}
	case ExternalNet, ExternalUnix, ExternalEventfd, ExternalIPC, ExternalQueue, ExternalFile, ExternalWatch, ExternalMoved:
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
	return nil
}
