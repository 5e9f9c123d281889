// Package cli is the command line of snapctl: one command a file.
//
// All that a command touches is in a [World], so that tests run commands
// in-process. Results go to standard output; errors, hints and progress to
// standard error. Commands translate: the API's messages come in from package
// client and leave as documents of package output.
package cli

import (
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/runtime/doctor"
)

// World is everything outside of the program.
type World struct {
	In       io.Reader
	Out, Err io.Writer
	Terminal Terminal

	Env func(name string) (value string, ok bool)
	Dir func() (string, error) // the working directory
	Now func() time.Time
	UID int

	Dial   func(ctx context.Context, socket string) (*client.Client, error)
	Doctor func(ctx context.Context, opt doctor.Options) []doctor.Check
	Build  output.Build // which program this is
}

// System is the world as it is. version is this program's.
func System(version string) World {
	return World{
		In: os.Stdin, Out: os.Stdout, Err: os.Stderr, Terminal: Console{},
		Env: os.LookupEnv, Dir: os.Getwd, Now: time.Now, UID: os.Geteuid(),
		Dial: client.Dial, Doctor: doctor.Run,
		Build: output.Build{Version: version, GoVersion: runtime.Version()},
	}
}

// Commands are all commands, for who writes about them.
func Commands(w World) *cobra.Command { return newRoot(&session{world: w}) }

// Run runs one command line, without the program's name, and returns the exit
// code. If ctx ends, what the command has begun is given up.
func Run(ctx context.Context, w World, args []string) ExitCode {
	s := &session{world: w}
	root := newRoot(s) //nolint:contextcheck // commands get it from cobra
	root.SetArgs(args)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return OK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err = errInterrupted
	}
	return s.report(cmd, err)
}
