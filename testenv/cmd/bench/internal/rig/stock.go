package rig

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/stats"
	"google.golang.org/protobuf/proto"

	"github.com/snapctl/snapctl/testenv"
)

// Loopback is where a server without snapctl listens, on its scratch host.
const Loopback = "127.0.0.1"

// Stock is a server that runs on the scratch host itself, for stock CRIU.
type Stock struct {
	World *World
	Dir   string
	Cmd   *exec.Cmd
	PID   int

	Ended bool
}

// StockSubject runs the benchmarked server without snapctl.
func (w *World) StockSubject(ctx context.Context, mib int) (*Stock, error) {
	path, err := w.Install(ctx, "subject")
	if err != nil {
		return nil, err
	}
	return w.StockProgram(ctx, path, "-memory", fmt.Sprint(mib))
}

// StockProgram runs a program without snapctl.
func (w *World) StockProgram(ctx context.Context, args ...string) (*Stock, error) {
	dir, err := os.MkdirTemp(w.Dir(), "stock-")
	if err != nil {
		return nil, err
	}
	// The host's own /dev/null: CRIU can't name a file of another mount namespace.
	cmd := w.Command(context.WithoutCancel(ctx), "sh", append([]string{"-c", `exec "$0" "$@" </dev/null >/dev/null 2>&1`}, args...)...)
	// CRIU can't save a Multipath TCP listener, which Go makes by default.
	cmd.Env = append(cmd.Env, "GOMAXPROCS=1", "GODEBUG=multipathtcp=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return &Stock{World: w, Dir: dir, Cmd: cmd, PID: cmd.Process.Pid}, nil
}

// End kills the server. It may be called again, and the server be restored again.
func (s *Stock) End() {
	if s.Ended {
		return
	}
	s.Ended = true
	_ = syscall.Kill(s.PID, syscall.SIGKILL) // it may have ended
	if s.Cmd != nil {
		_ = s.Cmd.Wait() // killed
		s.Cmd = nil
	}
}

// CRIU runs stock CRIU and returns how long it took.
func (s *Stock) CRIU(ctx context.Context, args ...string) (time.Duration, error) {
	took, r, err := s.World.Timed(ctx, testenv.CRIUPath(), append(args, "-D", s.Dir, "-o", args[0]+".log")...)
	if err == nil && r.Code != 0 {
		log, _ := exec.CommandContext(ctx, "grep", "Error", filepath.Join(s.Dir, args[0]+".log")).Output()
		err = fmt.Errorf("criu %s: exit status %d: %s%s", args[0], r.Code, r.Stderr, log)
	}
	return took, err
}

// Dump has CRIU save the server and returns how long it stood still, by CRIU's
// own account.
func (s *Stock) Dump(ctx context.Context, lock string, args ...string) (time.Duration, error) {
	args = append([]string{"dump", "-t", strconv.Itoa(s.PID), "--tcp-established", "--network-lock", lock}, args...)
	if _, err := s.CRIU(ctx, args...); err != nil {
		return 0, err
	}
	return frozenTime(filepath.Join(s.Dir, "stats-dump"))
}

// Restore has CRIU restore the server, detached; the old one must have ended. The
// images are as before, so this can be repeated after end.
func (s *Stock) Restore(ctx context.Context, args ...string) (time.Duration, error) {
	if s.Cmd != nil {
		_ = s.Cmd.Wait() // CRIU killed it
		s.Cmd = nil
	}
	// An earlier one, CRIU's child, was inherited by a process that may be slow to
	// reap it; and its id must be free.
	err := Until(ctx, 10*time.Second, func() error {
		if syscall.Kill(s.PID, 0) == nil {
			return fmt.Errorf("process %d is still there", s.PID)
		}
		return nil
	})
	if err != nil {
		return 0, err
	}
	s.Ended = false
	return s.CRIU(ctx, append([]string{"restore", "-d"}, args...)...)
}

// frozenTime reads CRIU's statistics: an image of one record after two magic
// numbers (the format of images is in CRIU's wiki, "Images").
func frozenTime(path string) (time.Duration, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	if len(b) < 12 || uint64(binary.LittleEndian.Uint32(b[8:])) != uint64(len(b)-12) {
		return 0, errors.New("read CRIU statistics: unexpected format")
	}
	var entry stats.StatsEntry
	if err := proto.Unmarshal(b[12:], &entry); err != nil {
		return 0, fmt.Errorf("read CRIU statistics: %w", err)
	}
	d := entry.GetDump()
	return time.Duration(d.GetFreezingTime()+d.GetFrozenTime()) * time.Microsecond, nil
}
