package session

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// ExitCode is how snapctl tells a script what happened.
type ExitCode int

// The exit codes. Besides them, exec ends with the code of the command it ran.
const (
	OK          ExitCode = 0
	Failed      ExitCode = 1
	Usage       ExitCode = 2 // the command line makes no sense
	NotFound    ExitCode = 4 // no such app, snapshot or template
	Unsupported ExitCode = 5 // not possible on this host or with this app
	Partly      ExitCode = 6 // it is done, but the app lost connections; some clones were made
)

// UsageError is a command line that makes no sense.
type UsageError struct {
	Text   string
	Advice []string // what can be done about it
}

// Usagef returns a *UsageError without advice.
func Usagef(format string, args ...any) error { return &UsageError{Text: fmt.Sprintf(format, args...)} }

func (e *UsageError) Error() string { return e.Text }

// Hints implements the interface that [client.Hints] looks for.
func (e *UsageError) Hints() []string { return e.Advice }

// ExitError ends a command that has said by its results what was wrong.
type ExitError struct {
	Code ExitCode
	Text string // may be empty
}

func (e *ExitError) Error() string { return e.Text }

// AdviceError is an error, and what can be done about it.
type AdviceError struct {
	Err    error
	Advice []string
}

func (e *AdviceError) Error() string { return e.Err.Error() }

// Unwrap is for errors.Is and errors.As.
func (e *AdviceError) Unwrap() error { return e.Err }

// Hints implements the interface that [client.Hints] looks for.
func (e *AdviceError) Hints() []string { return e.Advice }

// JoinedErrors are the errors of a command that does the same to several.
type JoinedErrors []error

func (f JoinedErrors) Error() string { return errors.Join(f...).Error() }

// Unwrap is for errors.Is and errors.As.
func (f JoinedErrors) Unwrap() []error { return f }

// CodeOf is the exit code for an error.
func CodeOf(err error) ExitCode {
	var exit *ExitError
	var usage *UsageError
	switch {
	case errors.As(err, &exit):
		return exit.Code
	case errors.As(err, &usage), errdefs.IsInvalidArgument(err):
		return Usage
	case errdefs.IsNotFound(err):
		return NotFound
	case errdefs.IsNotImplemented(err):
		return Unsupported
	default:
		return Failed
	}
}
