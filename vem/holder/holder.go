// Package holder keeps file descriptors for a daemon that may die.
//
// The holder is a separate process, the same binary started as `EXE holder
// --socket PATH`, that does nothing but take descriptors over a unix socket
// (SCM_RIGHTS, unix(7)), keep them, and hand out duplicates. A kernel socket lives
// as long as one descriptor of it is open, so what the holder keeps outlives the
// daemon's crash and upgrade.
//
//	daemon --Put--> holder        daemon dies, a new one starts
//	                holder --Get--> new daemon
//
// A [Store] is the contract: [Client] talks to the process, [Keeper] also starts
// another one if it ends, [Memory] is the fake for tests. The descriptors of one
// app are an [Item] list that is replaced as a whole or not at all.
//
// Limits: the holder's RLIMIT_NOFILE bounds what it keeps. The Go runtime raises
// the soft limit to the hard one by itself (since Go 1.19).
//
// # Why not systemd's file descriptor store
//
// The store compares each new descriptor with all that it has (service_add_fd_store in systemd's
// src/core/service.c). With systemd 252, 1000 sockets took 0.3 s and 5000 took 7 s, in process 1,
// while the app is frozen; the holder takes 2 us for each. The store tells nobody that it is full.
// It can't be read but by being started anew. `systemctl stop` empties it where
// FileDescriptorStorePreserve (254) is unknown. With KillMode=process the holder outlives what the
// store would outlive: `systemctl restart`, stop and start, a crash, an upgrade. Only the store
// survives the end of daemon and holder at the same moment. That costs connections, and no app.
package holder

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Item is one kept descriptor.
type Item struct {
	Key  string          // unique within its app, 1 to 255 bytes
	File *os.File        // never changed; a duplicate of the same open file description
	Meta json.RawMessage // what the owner wants to know of it later, at most 4 KiB; nil is null
}

// Store keeps the descriptors of apps. Its methods may be called at the same
// time.
type Store interface {
	// Put keeps duplicates of the items' files for app in place of what was kept
	// before. If it fails, or the caller dies before it returns, either nothing
	// has changed or all of it is done. The caller still owns the items' files.
	// An error wraps ErrItem for an item or app name that breaks the rules, and
	// ErrFull if the descriptors do not fit.
	Put(ctx context.Context, app string, items []Item) error
	// Get returns duplicates, in the order they were put in, which the caller
	// closes. An error wraps ErrNotFound if nothing was put for app.
	Get(ctx context.Context, app string) ([]Item, error)
	// Drop closes what is kept for app. It does nothing if there is none.
	Drop(ctx context.Context, app string) error
	// List tells how many descriptors each app has.
	List(ctx context.Context) (map[string]int, error)
}

var (
	// ErrNotFound says that nothing is kept for an app.
	ErrNotFound = errors.New("no descriptors are kept for this app")
	// ErrItem says that an item or an app name breaks the rules.
	ErrItem = errors.New("wrong item")
	// ErrFull says that the holder's RLIMIT_NOFILE leaves no room.
	ErrFull = errors.New("the holder has no room for more descriptors")
	// ErrVersion says that the holder speaks another version of the protocol.
	ErrVersion = errors.New("the holder speaks another protocol version")
	// ErrChanged says that another Put came in between the parts of a Get.
	ErrChanged = errors.New("the descriptors changed meanwhile")
	// ErrRunning says that a holder serves this socket already.
	ErrRunning = errors.New("a holder is running already")
	// ErrProtocol says that the other side sent something that makes no sense.
	ErrProtocol = errors.New("protocol error")
)

// Limits of one item.
const (
	maxName = 255
	maxMeta = 4 << 10
)

func checkApp(app string) error {
	if app == "" || len(app) > maxName {
		return fmt.Errorf("%w: app name of %d bytes, want 1 to %d", ErrItem, len(app), maxName)
	}
	return nil
}

// checkKey checks one item's key and meta, and enters the key into seen.
func checkKey(key string, meta json.RawMessage, seen map[string]bool) error {
	switch {
	case key == "" || len(key) > maxName:
		return fmt.Errorf("%w: key of %d bytes, want 1 to %d", ErrItem, len(key), maxName)
	case seen[key]:
		return fmt.Errorf("%w: key %q occurs twice", ErrItem, key)
	case len(meta) > maxMeta:
		return fmt.Errorf("%w: meta of %q has %d bytes, want at most %d", ErrItem, key, len(meta), maxMeta)
	}
	seen[key] = true
	return nil
}

func checkItems(app string, items []Item) error {
	if err := checkApp(app); err != nil {
		return err
	}
	seen := make(map[string]bool, len(items))
	for _, it := range items {
		if err := checkKey(it.Key, it.Meta, seen); err != nil {
			return err
		}
		if it.Meta != nil && !json.Valid(it.Meta) {
			return fmt.Errorf("%w: meta of %q is not JSON", ErrItem, it.Key)
		}
		if it.File == nil {
			return fmt.Errorf("%w: %q has no file", ErrItem, it.Key)
		}
	}
	return nil
}

// CloseAll closes the items' files.
func CloseAll(items []Item) error {
	var errs []error
	for _, it := range items {
		if it.File != nil {
			errs = append(errs, it.File.Close())
		}
	}
	return errors.Join(errs...)
}
