// Package criu runs CRIU's checkpoint and restore through its swrk RPC.
//
// A [Client] starts one `criu swrk` process for each request, speaks CRIU's
// protobuf protocol with it over a SOCK_SEQPACKET pair, and answers its
// notifications. It is a client of our own, over go-criu's rpc types, since
// go-criu's loop has neither a context nor a way to refuse a notification, and
// a refused post-dump notification is how a dump is cancelled without harm.
//
// All requests need CAP_SYS_ADMIN and what else criu(8) lists.
package criu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/rpc"
)

// MinVersion is the oldest CRIU that works on every kernel snapctl supports:
// since Linux 6.16 SO_PASSCRED is refused on inet sockets, which older CRIUs
// take for an error.
const MinVersion = 40200

// Client starts CRIU processes. The zero value looks for `criu` on PATH.
type Client struct {
	Path     string // the program; a wrapper script will do
	LogLevel int32  // CRIU's log level, 0 to 4; zero means 2 (warnings)
}

// Error is a request that CRIU refused or did not finish.
type Error struct {
	Op      string   // "dump", "restore", "version"
	Message string   // CRIU's own message, may be empty
	Errno   int      // CRIU's cr_errno, 0 when it gave none
	Alone   bool     // nobody had refused CRIU anything
	Lines   []string // the error lines of CRIU's log, oldest first
	LogFile string   // the whole log
	Err     error    // the cause outside CRIU, may be nil
}

// Unwrap returns the cause outside CRIU.
func (e *Error) Unwrap() error { return e.Err }

// Version returns CRIU's version as major*10000 + minor*100 + patch.
func (c Client) Version(ctx context.Context) (int, error) {
	s, err := c.start(ctx, process{})
	if err != nil {
		return 0, err
	}
	resp, err := s.roundTrip(&rpc.CriuReq{Type: new(rpc.CriuReqType_VERSION)}, nil)
	err = errors.Join(err, s.close())
	if err != nil {
		return 0, &Error{Op: "version", Err: err}
	}
	v := resp.GetVersion()
	return int(v.GetMajorNumber()*10000 + v.GetMinorNumber()*100 + v.GetSublevel()), nil
}

// failure builds the error of a request from its response and CRIU's log.
func failure(op string, resp *rpc.CriuResp, logFile string, err error) *Error {
	e := &Error{Op: op, LogFile: logFile, Lines: errorLines(logFile), Err: err}
	if resp != nil {
		// The message is the first line of the log, which we have, and which
		// may be the complaint that errorLines drops.
		e.Errno = int(resp.GetCrErrno())
		if len(e.Lines) == 0 {
			e.Message = strings.TrimSpace(resp.GetCrErrmsg())
		}
	}
	return e
}

// errorLines returns up to six error lines of a CRIU log: the first three,
// where the cause usually is, and the last three.
func errorLines(path string) []string {
	f, err := os.Open(path)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return []string{fmt.Sprintf("read %s: %v", filepath.Base(path), err)}
		}
		return nil
	}
	defer f.Close() //nolint:errcheck // only read from
	var lines []string
	in := bufio.NewScanner(f)
	for in.Scan() {
		// Without CAP_SYS_RESOURCE CRIU complains and goes on (criu/util.c,
		// rlimit_unlimit_nofile): never the cause.
		if _, text, ok := strings.Cut(in.Text(), "Error "); ok && !strings.Contains(text, "rlimit: ") {
			lines = append(lines, strings.TrimSpace(text))
			if len(lines) > 6 {
				lines = append(lines[:3], lines[4:]...)
			}
		}
	}
	return lines
}
