// Command snapctl is the command line of snapctld.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/snapctl/snapctl/cmd/internal/cli"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(int(cli.Run(ctx, session.System(version.Version), os.Args[1:])))
}
