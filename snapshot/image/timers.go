package image

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// POSIX timers that send their signal to one thread (SIGEV_THREAD_ID) name it in the
// images. CRIU 4.2 looks for it among the threads' ids before it has filled in that of the
// first thread (proc_parse.c, parse_threads: -1; cr-dump.c, dump_task_threads, comes after
// timer.c, encode_notify_thread_id). So a timer of the first thread names thread -1, and
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

// StrayTimers lists the images of processes that have a timer of no thread; see
// [View.PlaceTimers].
func StrayTimers(images string) ([]string, error) {
	names, err := imageNames(images)
	if err != nil {
		return nil, fmt.Errorf("look for timers: %w", err)
	}
	v := &View{dir: images}
	var out []string
	for _, name := range names {
		if !strings.HasPrefix(name, "core-") {
			continue
		}
		data, err := v.read(name)
		if err != nil {
			return nil, fmt.Errorf("look for timers: %w", err)
		}
		img, err := Decode(data)
		if err != nil {
			return nil, fmt.Errorf("look for timers: read %s: %w", name, err)
		}
		for _, r := range img.Records {
			_, stray, err := placeTimers(r.Message, timersPath, 0)
			if err != nil {
				return nil, fmt.Errorf("look for timers: read %s: %w", name, err)
			}
			if stray && !slices.Contains(out, name) {
				out = append(out, name)
			}
		}
	}
	return out, nil
}

// PlaceTimers gives the timers of no thread in these images, which StrayTimers listed, to
// the first thread of their process.
func (v *View) PlaceTimers(images []string) error {
	for _, name := range images {
		pid, err := strconv.Atoi(strings.TrimSuffix(strings.TrimPrefix(name, "core-"), ".img"))
		if err != nil {
			return fmt.Errorf("edit %s: %w: no process id in its name", name, ErrMalformed)
		}
		err = v.edit(name, TypeCore, func(msg []byte) ([]byte, error) {
			out, _, err := placeTimers(msg, timersPath, pid)
			return out, err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// placeTimers returns a message in which the timers below path that name no thread name
// this one, and whether there are any.
func placeTimers(msg []byte, path []protowire.Number, thread int) (out []byte, stray bool, err error) {
	out = make([]byte, 0, len(msg)+8)
	s := scan(msg)
	for s.next() {
		switch {
		case len(path) > 0 && s.is(path[0], lengthDelimited):
			inner, found, err := placeTimers(s.buf, path[1:], thread)
			if err != nil {
				return nil, false, err
			}
			stray = stray || found
			out = appendBytes(out, path[0], inner)
		case len(path) == 0 && s.is(timerNotifyThread, varint) && int32(s.val) < 0: //nolint:gosec // an int32 of protobuf
			stray = true
			out = appendVarint(out, timerNotifyThread, uint64(thread))
		default:
			out = append(out, s.raw...)
		}
	}
	return out, stray, s.err
}
