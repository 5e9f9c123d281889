// Command snapctld is the daemon of snapctl: it owns the apps of one host.
package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/cmd/internal/daemoncli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	os.Exit(daemoncli.Main(ctx, os.Args[1:], os.Stderr))
}
