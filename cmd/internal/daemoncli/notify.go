package daemoncli

import (
	"context"
	"log/slog"
	"net"
	"os"
)

// notifyReady tells systemd that the daemon serves, sd_notify(3).
func notifyReady(ctx context.Context, log *slog.Logger) {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "unixgram", path)
	if err == nil {
		_, err = conn.Write([]byte("READY=1"))
		_ = conn.Close() // the datagram is sent or not
	}
	if err != nil {
		log.WarnContext(ctx, "tell systemd that the daemon is ready", slog.Any("error", err))
	}
}
