package holder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// readyEnv names the descriptor that a holder started by [Spawn] reports on.
const readyEnv = "SNAPCTL_HOLDER_READY_FD"

// maxSessions bounds how many clients are served at the same time, so that their
// connections fit into what [vault] reserves.
const maxSessions = 32

// Serve is the holder process's main loop. It returns when ctx is done, with nil,
// or when the listener fails; then everything that was kept is closed, so that
// peers of kept sockets see their connections end.
//
// Only root and the holder's own user are served (SO_PEERCRED). The caller closes
// l; see [Listen].
func Serve(ctx context.Context, l *net.UnixListener, log *slog.Logger) error {
	v, err := newVault()
	if err != nil {
		return err
	}
	defer v.close()
	if err := reportReady(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() }) //nolint:errcheck // ends Accept
	defer stop()
	slots := make(chan struct{}, maxSessions)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				conn.Close() //nolint:errcheck // too late for this client
			}
			return nil
		case errors.Is(err, unix.ECONNABORTED) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE):
			<-slots
			log.WarnContext(ctx, "accept client", slog.Any("error", err))
			continue
		case err != nil:
			return fmt.Errorf("accept client: %w", err)
		}
		wg.Go(func() {
			defer func() { <-slots }()
			s := &session{vault: v, conn: conn}
			if err := s.run(ctx); err != nil && ctx.Err() == nil {
				log.WarnContext(ctx, "client session ended", slog.Any("error", err))
			}
		})
	}
}

// reportReady tells Spawn, if that started this process, that the listener is up.
func reportReady() error {
	name := os.Getenv(readyEnv)
	if name == "" {
		return nil
	}
	if err := os.Unsetenv(readyEnv); err != nil {
		return err
	}
	var fd int
	if _, err := fmt.Sscanf(name, "%d", &fd); err != nil || fd <= 2 {
		return fmt.Errorf("report readiness: %s=%q names no descriptor", readyEnv, name)
	}
	f := os.NewFile(uintptr(fd), "ready")
	_, err := f.Write([]byte{'1'})
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("report readiness: %w", err)
	}
	return nil
}

// session is one client's connection.
type session struct {
	vault *vault
	conn  *net.UnixConn

	// A put that has begun:
	app      string
	total    int // descriptors announced; room for them is reserved
	staging  bool
	staged   []keptItem
	stageKey map[string]bool
}

func (s *session) run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { s.conn.Close() }) //nolint:errcheck // ends the read
	defer stop()
	defer s.conn.Close() //nolint:errcheck // the client is gone or misbehaves
	defer s.discard()
	if err := allowed(s.conn); err != nil {
		return err
	}
	r := newReader(s.conn)
	for {
		b, fds, err := r.next()
		switch {
		case errors.Is(err, errCut):
			closeFDs(fds)
			s.discard()
			if err := send(s.conn, failure(fmt.Errorf("%w: RLIMIT_NOFILE is reached", ErrFull)), nil); err != nil {
				return err
			}
			continue
		case errors.Is(err, ErrProtocol):
			closeFDs(fds)
			return errors.Join(err, send(s.conn, failure(err), nil))
		case errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNRESET) || err == nil && len(b) == 0:
			closeFDs(fds)
			return nil
		case err != nil:
			return err
		}
		if err := s.handle(b, fds); err != nil {
			return err
		}
	}
}

// allowed checks who is at the other end.
func allowed(conn *net.UnixConn) error {
	cred, err := peer(conn)
	if err != nil {
		return err
	}
	if cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("refuse client: process %d has uid %d", cred.Pid, cred.Uid)
	}
	return nil
}

// peer asks the kernel who is at the other end.
func peer(conn *net.UnixConn) (*unix.Ucred, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, fmt.Errorf("get credentials of peer: %w", credErr)
	}
	return cred, nil
}

// handle answers one request. It owns fds. An error ends the session.
func (s *session) handle(b []byte, fds []int) error {
	req, err := decodeRequest(b)
	if err != nil {
		closeFDs(fds)
		s.discard()
		return send(s.conn, failure(err), nil)
	}
	if req.Op != opPut {
		closeFDs(fds) // no other request carries any
		s.discard()
	}
	done := response{Version: protocolVersion}
	switch req.Op {
	case opPut:
		if err := s.put(req, fds); err != nil {
			s.discard()
			return send(s.conn, failure(err), nil)
		}
		return send(s.conn, done, nil)
	case opGet:
		err := s.vault.part(req, func(r response, fds []int) error { return send(s.conn, r, fds) })
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrChanged) || errors.Is(err, ErrProtocol) {
			return send(s.conn, failure(err), nil)
		}
		return err
	case opDrop:
		s.vault.drop(req.App)
		return send(s.conn, done, nil)
	case opList:
		done.Apps, done.More = s.vault.list(req.App)
		return send(s.conn, done, nil)
	default:
		return send(s.conn, failure(fmt.Errorf("%w: unknown operation %q", ErrProtocol, req.Op)), nil)
	}
}

// put takes one part of a put. It owns fds.
func (s *session) put(req request, fds []int) error {
	taken := false
	defer func() {
		if !taken {
			closeFDs(fds)
		}
	}()
	if !s.staging {
		if err := checkApp(req.App); err != nil {
			return err
		}
		if err := s.vault.admit(req.Total); err != nil {
			return err
		}
		s.app, s.total, s.staging = req.App, req.Total, true
		s.stageKey = map[string]bool{}
	}
	switch have := len(s.staged) + len(req.Items); {
	case req.App != s.app:
		return fmt.Errorf("%w: put for %q within one for %q", ErrProtocol, req.App, s.app)
	case len(fds) != len(req.Items):
		return fmt.Errorf("%w: %d descriptors for %d items", ErrProtocol, len(fds), len(req.Items))
	case have > s.total || !bool(req.More) && have != s.total:
		return fmt.Errorf("%w: %d items, %d announced", ErrProtocol, have, s.total)
	}
	for _, it := range req.Items {
		if err := checkKey(it.Key, it.Meta, s.stageKey); err != nil {
			return err
		}
	}
	for i, it := range req.Items {
		s.staged = append(s.staged, keptItem{key: it.Key, meta: bytes.Clone(it.Meta), fd: fds[i]})
	}
	taken = true
	if !req.More {
		s.vault.commit(s.app, s.staged)
		s.staged = nil
		s.discard()
	}
	return nil
}

// discard forgets a put that has begun.
func (s *session) discard() {
	for _, it := range s.staged {
		unix.Close(it.fd) //nolint:errcheck // nothing was written through it
	}
	if s.staging {
		s.vault.release(s.total)
	}
	s.app, s.total, s.staging, s.staged, s.stageKey = "", 0, false, nil, nil
}
