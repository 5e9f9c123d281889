// Package session is one command line of snapctl being run, and what all commands have in common.
//
// A [World] is everything outside of the program: streams, the terminal, the environment, and how
// the daemon is dialled. A [Session] is one command line in a world. Commands are made of its
// methods: [Session.Call] and [Session.Operate] connect to the daemon and apply --timeout,
// [Session.Print] prints a result on standard output, [Session.Ask] completes names. Errors are
// returned; [Session.Report] tells them on standard error, with hints, and gives the exit code.
//
// Which commands there are is not known here: see package cli.
package session

import (
	"time"

	"github.com/snapctl/snapctl/cmd/internal/output"
)

// SocketVariable is the environment variable that names the daemon's socket.
const SocketVariable = "SNAPCTL_SOCKET"

// Session is one command line being run. Socket, Format and Timeout are flags of all commands.
type Session struct {
	World   World
	Socket  string // where the daemon listens; empty: see [SocketVariable]
	Format  output.Format
	Timeout time.Duration // 0: none

	said []string // hints and notes
}

// Annotations of commands.
const (
	// RawKey is the annotation of a command that prints no document.
	RawKey = "raw"
	// ProgramKey is the annotation of a command whose arguments are a program's.
	ProgramKey = "program"
	// ListKey is the annotation of a command that works on something else than
	// apps: the command that lists those.
	ListKey = "list"
	// TakenKey is the annotation of a command that makes something: what to do if
	// its name, or another thing that it needs, is taken.
	TakenKey = "taken"
)

// Raw are the annotations of a command that has nothing to print as JSON.
func Raw() map[string]string { return map[string]string{RawKey: "true"} }
