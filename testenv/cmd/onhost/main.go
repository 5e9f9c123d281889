// Command onhost runs a command on a scratch host with a running daemon, and removes
// the host afterwards. It is for trying things by hand:
//
//	go run ./testenv/cmd/onhost bash
//	go run ./testenv/cmd/onhost bash -x testenv/cases/bind-lock.sh
//
// snapctl is on the command's PATH. With ONHOST_LOG=1 in the environment, what the
// daemon logged is shown if the command fails.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/snapctl/snapctl/testenv/host"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: onhost COMMAND [ARGUMENT...]")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	code, err := run(ctx, os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Fprintln(os.Stderr, "onhost: error:", err)
		code = max(code, 1)
	}
	os.Exit(code) //nolint:gocritic // nothing is left to be deferred
}

func run(ctx context.Context, name string, args []string) (code int, err error) {
	h, err := host.Open(ctx, host.Config{})
	if err != nil {
		return 0, err
	}
	defer func() {
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		err = errors.Join(err, h.Close(clean))
	}()
	if err := h.StartDaemon(ctx, host.Daemon{}); err != nil {
		return 0, err
	}
	if _, err := h.Install(ctx, "snapctl"); err != nil {
		return 0, err
	}
	cmd := h.Command(ctx, name, args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code, err = exit.ExitCode(), nil
	}
	if code != 0 && os.Getenv("ONHOST_LOG") != "" {
		fmt.Fprint(os.Stderr, h.DaemonLog())
	}
	return code, err
}
