package daemoncli

import (
	"bytes"
	"log/slog"
	"net"
	"path/filepath"
	"testing"

	"github.com/go-quicktest/qt"
)

func TestNotifyReady(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	qt.Assert(t, qt.IsNil(err))
	defer l.Close()
	var log bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&log, nil))

	t.Setenv("NOTIFY_SOCKET", path)
	notifyReady(t.Context(), logger)
	b := make([]byte, 100)
	n, err := l.Read(b)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b[:n]), "READY=1"))
	qt.Assert(t, qt.Equals(log.String(), ""))

	t.Setenv("NOTIFY_SOCKET", path+"-of-nobody")
	notifyReady(t.Context(), logger)
	qt.Assert(t, qt.StringContains(log.String(), "tell systemd that the daemon is ready"))

	log.Reset()
	t.Setenv("NOTIFY_SOCKET", "") // not started by systemd
	notifyReady(t.Context(), logger)
	qt.Assert(t, qt.Equals(log.String(), ""))
}
