package member

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Reason is why a member's process ended.
type Reason int

// The reasons, as far as the process could say.
const (
	ReasonUnknown   Reason = iota // it wrote nothing: killed, or the kernel ran out of memory
	ReasonTold                    // somebody else ended it by a signal
	ReasonDiskFull                // it goes on as soon as there is room
	ReasonCorrupt                 // its data can't be read: restore a backup, or join again
	ReasonPortInUse               // another program listens at one of its addresses
	ReasonNoData                  // [ErrNoData]
	ReasonRemoved                 // it was removed from its cluster, and is not started again
	ReasonRunning                 // [ErrRunning]
	ReasonOther                   // EndError.Said tells
)

func (r Reason) String() string {
	switch r {
	case ReasonDiskFull:
		return "the disk is full"
	case ReasonCorrupt:
		return "its data is damaged"
	case ReasonPortInUse:
		return "its address is in use"
	case ReasonNoData:
		return "its data is gone"
	case ReasonRemoved:
		return "it was removed from its cluster"
	case ReasonRunning:
		return "another process has its folder"
	case ReasonUnknown:
		return "it was killed, or failed without a word"
	case ReasonTold:
		return "it was told to end"
	case ReasonOther:
		return "it failed"
	default:
		return fmt.Sprintf("Reason(%d)", int(r))
	}
}

// hint is what to do.
func (r Reason) hint() string {
	switch r {
	case ReasonDiskFull:
		return "make room: it is started again by itself, and nothing of it is lost"
	case ReasonCorrupt:
		return "restore a backup; or remove the member from its cluster, move its data away and let it join again"
	case ReasonPortInUse:
		return "end what listens there, or give the member another address"
	case ReasonRemoved:
		return "it stays as it is; to take part again its host joins anew"
	case ReasonUnknown, ReasonTold, ReasonNoData, ReasonRunning, ReasonOther:
	}
	return ""
}

// EndError is a member whose process ended, or could not start.
type EndError struct {
	Reason Reason
	Said   string // the last thing of weight in its log; may be empty
	Log    string // the path of the log
}

func (e *EndError) Error() string {
	s := "the member of the directory ended: " + e.Reason.String()
	if e.Said != "" {
		s += ": " + e.Said
	}
	if h := e.Reason.hint(); h != "" {
		s += " (" + h + ")"
	}
	return s + "; its log is " + e.Log
}

// What the program writes first, when it serves, and when it was told to end: what is before the
// first two in the log is of earlier processes, or did not hinder it, and what comes after the last
// is no reason.
const (
	Started = "member starts"
	Serves  = "member serves"
	Told    = "member was told to end"
)

// line is a line of the log, as zap and slog write it.
type line struct {
	Level string `json:"level"`
	Msg   string `json:"msg"`
	Error string `json:"error"`
}

// why reads from the end of the log of a process that has ended what made it end. The process wrote
// nothing before the offset from.
func why(path string, from int64) *EndError {
	e := &EndError{Log: path}
	tail, err := readTail(path, from, logKeep)
	if err != nil {
		e.Reason, e.Said = ReasonOther, err.Error()
		return e
	}
	e.Reason, e.Said = explain(tail)
	if (e.Reason == ReasonUnknown || e.Reason == ReasonOther) && full(filepath.Dir(path)) {
		e.Reason = ReasonDiskFull // it had no room to say so
	}
	return e
}

// full tells whether a folder's file system has no room for a member.
func full(dir string) bool {
	var st unix.Statfs_t
	err := unix.Statfs(dir, &st)
	return err == nil && int64(st.Bavail)*st.Bsize < 1<<20
}

// explain finds the reason in a log: the last line that says one, else the last error. A full disk
// explains all that comes after it.
func explain(log []byte) (Reason, string) {
	for _, mark := range []string{Started, Serves} {
		if at := bytes.LastIndex(log, []byte(`"`+mark+`"`)); at >= 0 {
			log = log[at:]
		}
	}
	log, _, told := bytes.Cut(log, []byte(`"`+Told+`"`))
	if told {
		return ReasonTold, ""
	}
	reason, said := ReasonUnknown, ""
	for text := range strings.Lines(string(log)) {
		text = strings.TrimSpace(text)
		l, grave := weigh(text)
		if !grave {
			continue
		}
		if found := classify(l); reason != ReasonDiskFull && (found != ReasonOther || reason == ReasonUnknown || reason == ReasonOther) {
			reason, said = found, l
		}
	}
	return reason, said
}

// weigh returns what a line of the log says, and whether it is an error.
func weigh(text string) (string, bool) {
	var l line
	if json.Unmarshal([]byte(text), &l) != nil {
		// Go's runtime writes this one.
		return text, strings.HasPrefix(text, "panic: ") || strings.HasPrefix(text, "fatal error: ")
	}
	switch strings.ToLower(l.Level) {
	case "error", "dpanic", "panic", "fatal":
	default:
		// etcd only warns when it was removed from its cluster, and when a disk is too full for it
		// to repair what was written before it was.
		if l.Msg != "server error" && classify(l.Error) != ReasonDiskFull {
			return "", false
		}
	}
	if l.Error != "" {
		return l.Msg + ": " + l.Error, true
	}
	return l.Msg, true
}

// classify knows the words of Linux (strerror(3)), of Go, and of etcd's server.
func classify(said string) Reason {
	for _, c := range []struct {
		reason Reason
		words  []string
	}{
		{ReasonDiskFull, []string{"no space left on device", "disk quota exceeded"}},
		{ReasonPortInUse, []string{"address already in use"}},
		{ReasonNoData, []string{ErrNoData.Error()}},
		{ReasonRunning, []string{ErrRunning.Error(), "file already locked"}},
		{ReasonRemoved, []string{"permanently removed from the cluster", "member has been removed"}},
		// protobuf writes "proto:" and one of two kinds of space, another one in each build.
		{ReasonCorrupt, []string{
			"corrupt", "crc mismatch", "checksum error", "invalid database", "version mismatch", "unexpected EOF",
			"failed to recover v3 backend", "file not found", "proto:", "slice bounds", "failed to open WAL", "walpb:",
		}},
	} {
		for _, w := range c.words {
			if strings.Contains(said, w) {
				return c.reason
			}
		}
	}
	return ReasonOther
}
