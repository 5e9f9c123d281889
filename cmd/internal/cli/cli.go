// Package cli is the command line of snapctl. It puts the commands together, and runs one of them.
//
//	cli                 all commands, help, completion scripts
//	apps                commands that do something to one app or to its snapshots
//	clones              commands for templates, their pools, and clones
//	views               commands that only show something
//	policy              flags that several commands have
//	session             what all commands need: the daemon, printing, errors and exit codes
//
// A command is a file. All that a command touches is in a [session.World], so that tests run
// commands in-process: package clitest has such a world, with a daemon that only keeps records.
// Results go to standard output; errors, hints and progress to standard error. Commands
// translate: the API's messages come in from package client and leave as documents of package
// output.
package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
)

// errInterrupted is a command that was ended by a signal.
var errInterrupted = errors.New("interrupted")

// Commands are all commands, for who writes about them.
func Commands(w session.World) *cobra.Command { return newRoot(&session.Session{World: w}) }

// Run runs one command line, without the program's name, and returns the exit
// code. If ctx ends, what the command has begun is given up.
func Run(ctx context.Context, w session.World, args []string) session.ExitCode {
	s := &session.Session{World: w}
	root := newRoot(s) //nolint:contextcheck // commands get it from cobra
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return session.OK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	return s.Report(cmd, err)
}
