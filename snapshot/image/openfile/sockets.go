// Package openfile reads and edits what a dump says of the files that processes have open,
// or mapped: sockets, eventfds, what inotify watches, and files with a name.
//
//   - [ReplaceSockets] and [Replace] turn files that somebody else has kept into ones that CRIU
//     inherits by a key, and tell by [Replaced] what they did. That is how a held socket
//     comes back to its process.
//   - A [Saved] file is one of which the dump has only the name: a restore opens it again.
//     [ReadSaved] and [ReadMapped] list them, [ChangeSaved] has a restore open another one.
//   - [Lock], [Owner] and [WatchKey] are what hangs on open files, and CRIU brings back in
//     part: file locks, who is sent signals, and what inotify and fanotify watch.
package openfile

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/snapctl/snapctl/snapshot/image"
)

// Replaced tells what [ReplaceSockets] did with one socket.
type Replaced struct {
	Inode uint64 // the kernel socket
	Key   string // the name under which CRIU is to inherit it
	File  uint32 // its file id in the images
	FDs   int    // how many file descriptors of all processes refer to it
}

var (
	// ErrKey means that a key cannot be used: it is empty or too long, has a
	// NUL or a leading slash, or is the name of another file.
	ErrKey = errors.New("bad key")

	// ErrHalfHeld means that of two connected unix sockets one is held and the
	// other is not, so that a restore would make a new socket of the latter and
	// leave both without a peer.
	ErrHalfHeld = errors.New("peer of a held socket is not held")
)

// ReplaceSockets turns sockets of the dump into regular files of a name that
// nothing else has, for CRIU then to inherit the real socket under that name:
// CRIU asks for inherited descriptors by name before it opens a regular file
// (open_path in criu/files-reg.c), never for an inet socket. keys maps the
// inode number of each socket to its key, which is to be passed to CRIU as it
// is.
//
// Replaced are the entries in files.img, the types in fdinfo-*.img, and packets
// in sk-queues.img that wait for a replaced unix socket: the real one still has
// them. File ids, descriptor numbers and flags stay, and with them epoll
// registrations, dup(2)s, and descriptors in transit.
//
// It returns what was replaced. A socket that no file of the dump refers to is
// not in the answer; whether that is an error is for the caller to say. On an
// error wrapping [ErrKey], [ErrHalfHeld] or [wire.ErrMalformed] the view is as it
// was; after any other the view is only fit to be removed.
func ReplaceSockets(ctx context.Context, v *image.View, keys map[uint64]string) (map[uint64]Replaced, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	taken, err := checkKeys(keys)
	if err != nil {
		return nil, fmt.Errorf("replace sockets: %w", err)
	}
	edit := socketEdit{
		keys: keys, taken: taken,
		done: make([]Replaced, 0, len(keys)), ids: make(map[uint32]int, len(keys)),
	}
	changed := make(map[string][]byte)
	targets, err := v.FileImages()
	if err != nil {
		return nil, fmt.Errorf("replace sockets: %w", err)
	}
	for _, target := range targets {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("replace sockets: %w", err)
		}
		data, err := v.Read(target.Name)
		if err != nil {
			return nil, fmt.Errorf("replace sockets: %w", err)
		}
		data, err = edit.file(target.Type, data)
		if err != nil {
			return nil, fmt.Errorf("replace sockets in %s: %w", target.Name, err)
		}
		if data != nil {
			changed[target.Name] = data
		}
	}
	for name, data := range changed {
		if err := v.Replace(name, data); err != nil {
			return nil, fmt.Errorf("replace sockets: %w", err)
		}
	}
	done := make(map[uint64]Replaced, len(edit.done))
	for _, r := range edit.done {
		done[r.Inode] = r
	}
	return done, nil
}

// maxKey is far below PATH_MAX, which bounds the name of a file in CRIU.
const maxKey = 255

// checkKeys returns which inode each key is for.
func checkKeys(keys map[uint64]string) (map[string]uint64, error) {
	taken := make(map[string]uint64, len(keys))
	for inode, key := range keys {
		switch other, dup := taken[key]; {
		case key == "", key == ".":
			return nil, fmt.Errorf("%w: %q for socket %d", ErrKey, key, inode)
		case len(key) > maxKey:
			return nil, fmt.Errorf("%w: %d bytes for socket %d, at most %d", ErrKey, len(key), inode, maxKey)
		case key[0] == '/', strings.IndexByte(key, 0) >= 0:
			return nil, fmt.Errorf("%w: %q for socket %d", ErrKey, key, inode)
		case dup:
			return nil, fmt.Errorf("%w: %q for both sockets %d and %d", ErrKey, key, other, inode)
		}
		taken[key] = inode
	}
	return taken, nil
}

// A socketEdit is one run over the images.
type socketEdit struct {
	keys  map[uint64]string // by inode
	taken map[string]uint64 // the inverse
	done  []Replaced
	ids   map[uint32]int // file id -> index in done
	unix  []unixPeer
}

// unixPeer is a unix socket of the dump, to be checked when all are known.
type unixPeer struct {
	inode, peer uint64
	external    bool
}

// file edits one image and returns nil if there was nothing to change.
func (e *socketEdit) file(want image.Type, data []byte) ([]byte, error) {
	img, err := image.DecodeAs(want, data)
	if err != nil {
		return nil, err
	}
	var edited []image.Record
	//exhaustive:ignore
	switch img.Type {
	case image.TypeFiles:
		edited, err = e.files(img.Records)
	case image.TypeFdinfo:
		edited, err = e.fdinfo(img.Records)
	case image.TypeSkQueues:
		edited, err = e.queues(img.Records)
	}
	if err != nil || edited == nil {
		return nil, err
	}
	img.Records = edited
	return img.Encode(), nil
}
