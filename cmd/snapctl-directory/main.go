// Command snapctl-directory is a member of the directory's etcd cluster. snapctld starts it.
package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/cmd/internal/directorycli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	os.Exit(directorycli.Main(ctx, os.Args[1:], os.Stdout, os.Stderr))
}
