package timing

import (
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/snapctl/snapctl/snapshot/image"
	"github.com/snapctl/snapctl/snapshot/image/wire"
)

// POSIX timers that send their signal to one thread (SIGEV_THREAD_ID) name it in the
// images, by its id inside. CRIU 4.2 looks for it among the threads of the process before
// it has filled in the id of the first one (timer.c, encode_notify_thread_id, is called
// before cr-dump.c, dump_task_threads; seize.c, collect_threads, leaves the field as
// malloc gave it). So a timer of the first thread names whatever was in that memory, and
// no restore can make it: timer_create says EINVAL.

// Fields of the messages that lead to a timer: images/core.proto and timer.proto.
const (
	coreTask          protowire.Number = 3  // core_entry.tc
	taskTimers        protowire.Number = 7  // task_core_entry.timers
	timersPosix       protowire.Number = 4  // task_timers_entry.posix
	timerNotifyThread protowire.Number = 11 // posix_timer_entry.notify_thread_id
)

// timersPath leads from a core entry to its POSIX timers.
var timersPath = []protowire.Number{coreTask, taskTimers, timersPosix}

// StrayTimers lists the images of processes that have a timer of no thread of theirs; see
// [PlaceTimers].
func StrayTimers(images string) ([]string, error) {
	names, err := image.Names(images)
	if err != nil {
		return nil, fmt.Errorf("look for timers: %w", err)
	}
	v := image.InPlace(images)
	var threads map[int][]uint32 // read only if there is such a timer
	var out []string
	for _, name := range names {
		if !strings.HasPrefix(name, "core-") {
			continue
		}
		data, err := v.Read(name)
		if err != nil {
			return nil, fmt.Errorf("look for timers: %w", err)
		}
		img, err := image.Decode(data)
		if err != nil {
			return nil, fmt.Errorf("look for timers: read %s: %w", name, err)
		}
		for _, r := range img.Records {
			_, named, err := placeTimers(r.Message, timersPath, nil, 0)
			if err != nil {
				return nil, fmt.Errorf("look for timers: read %s: %w", name, err)
			}
			if len(named) == 0 {
				continue
			}
			if threads == nil {
				if threads, err = v.Threads(); err != nil {
					return nil, fmt.Errorf("look for timers: %w", err)
				}
			}
			pid, err := image.CoreID(name)
			if err != nil {
				return nil, fmt.Errorf("look for timers: %w", err)
			}
			if slices.ContainsFunc(named, func(id uint32) bool { return !slices.Contains(threads[pid], id) }) {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

// PlaceTimers gives the timers of no thread in these images, which StrayTimers listed, to
// the first thread of their process.
func PlaceTimers(v *image.View, images []string) error {
	if len(images) == 0 {
		return nil
	}
	threads, err := v.Threads()
	if err != nil {
		return fmt.Errorf("place timers: %w", err)
	}
	for _, name := range images {
		pid, err := image.CoreID(name)
		if err != nil {
			return fmt.Errorf("place timers: %w", err)
		}
		err = v.EditFirst(name, image.TypeCore, func(msg []byte) ([]byte, error) {
			out, _, err := placeTimers(msg, timersPath, threads[pid], pid)
			return out, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// placeTimers returns a message in which the timers below path that name none of the
// threads name first, and which threads were named before.
func placeTimers(msg []byte, path []protowire.Number, threads []uint32, first int) (out []byte, named []uint32, err error) {
	out = make([]byte, 0, len(msg)+8)
	s := wire.Scan(msg)
	for s.Next() {
		switch {
		case len(path) > 0 && s.Is(path[0], wire.Bytes):
			inner, found, err := placeTimers(s.Bytes, path[1:], threads, first)
			if err != nil {
				return nil, nil, err
			}
			named = append(named, found...)
			out = wire.AppendBytes(out, path[0], inner)
		case len(path) == 0 && s.Is(timerNotifyThread, wire.Varint):
			id := uint32(s.Uint) //nolint:gosec // an int32 of protobuf
			named = append(named, id)
			if slices.Contains(threads, id) {
				out = append(out, s.Raw...)
			} else {
				out = wire.AppendVarint(out, timerNotifyThread, uint64(first))
			}
		default:
			out = append(out, s.Raw...)
		}
	}
	return out, named, s.Err
}
