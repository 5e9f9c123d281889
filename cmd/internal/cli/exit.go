package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
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

// errInterrupted is a command that was ended by a signal.
var errInterrupted = errors.New("interrupted")

// usageError is a command line that makes no sense.
type usageError struct {
	text  string
	hints []string
}

func usagef(format string, args ...any) error { return &usageError{text: fmt.Sprintf(format, args...)} }

func (e *usageError) Error() string   { return e.text }
func (e *usageError) Hints() []string { return e.hints }

// exitError ends a command that has said by its results what was wrong.
type exitError struct {
	code ExitCode
	text string // may be empty
}

func (e *exitError) Error() string { return e.text }

// adviceError is an error, and what can be done about it.
type adviceError struct {
	err   error
	hints []string
}

func (e *adviceError) Error() string   { return e.err.Error() }
func (e *adviceError) Unwrap() error   { return e.err }
func (e *adviceError) Hints() []string { return e.hints }

// failures are the errors of a command that does the same to several.
type failures []error

func (f failures) Error() string   { return errors.Join(f...).Error() }
func (f failures) Unwrap() []error { return f }

// codeOf is the exit code for an error.
func codeOf(err error) ExitCode {
	var exit *exitError
	var usage *usageError
	switch {
	case errors.As(err, &exit):
		return exit.code
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

// report says what went wrong. With several errors, the first one gives the
// exit code.
func (s *session) report(cmd *cobra.Command, err error) ExitCode {
	if all, ok := err.(failures); ok { //nolint:errorlint // returned by commands as it is
		for _, e := range all {
			s.report(cmd, e)
		}
		return codeOf(all[0])
	}
	if err.Error() != "" {
		s.say("error", err.Error())
	}
	for _, hint := range s.hints(cmd, err) {
		if !slices.Contains(s.said, hint) { // several errors may share one
			s.say("hint", hint)
			s.said = append(s.said, hint)
		}
	}
	return codeOf(err)
}

// say writes a message to standard error. All lines but the first are indented.
func (s *session) say(kind, text string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		lines[i] = output.Clean(strings.ReplaceAll(lines[i], "\t", "    "))
	}
	// Nothing is left to do about an error here.
	_, _ = fmt.Fprintf(s.world.Err, "snapctl: %s: %s\n", kind, strings.Join(lines, "\n  "))
}

// hints are what the daemon advises, or else what is known here.
func (s *session) hints(cmd *cobra.Command, err error) []string {
	if a, ok := errors.AsType[*adviceError](err); ok {
		return append(slices.Clone(a.hints), s.hints(cmd, a.err)...)
	}
	if all := client.Hints(err); len(all) > 0 {
		return all
	}
	var usage *usageError
	switch {
	case errors.As(err, &usage):
		return []string{"see `" + cmd.CommandPath() + " --help`"}
	case errors.Is(err, client.ErrNotRunning):
		return s.startHints()
	case errors.Is(err, fs.ErrPermission):
		if s.world.UID != 0 {
			return []string{"only root may use snapctl: try `sudo snapctl`"}
		}
		return []string{"the socket can't be opened even by root: look for a security module's or a container's restrictions"}
	case errdefs.IsUnavailable(err):
		return []string{"snapctld went away; it finishes or undoes what was begun when it starts: `systemctl status snapctld`"}
	case errdefs.IsNotImplemented(err) && strings.Contains(err.Error(), "unknown method"):
		return []string{"snapctld is older than snapctl: `systemctl restart snapctld`; apps go on meanwhile"}
	case errdefs.IsNotFound(err):
		return []string{"`snapctl " + listOf(cmd, err) + "` lists what there is"}
	case errdefs.IsAlreadyExists(err) && cmd.Annotations[takenKey] != "":
		return []string{cmd.Annotations[takenKey]}
	case errors.Is(err, context.DeadlineExceeded) && s.timeout > 0:
		return []string{"--timeout " + s.timeout.String() + " was too short for it"}
	default:
		return nil
	}
}

func (s *session) startHints() []string {
	hint := "start it with `systemctl start snapctld`, or in the foreground with `snapctld --state-dir /var/lib/snapctl`"
	if s.world.UID != 0 {
		hint += "; both, and snapctl, need root"
	}
	return []string{hint}
}

// listKey is the annotation of a command that works on something else than
// apps: the command that lists those.
const listKey = "list"

// takenKey is the annotation of a command that makes something: what to do if
// its name, or another thing that it needs, is taken.
const takenKey = "taken"

// lists are the commands that list what an error begins with.
var lists = map[string]string{"app": "ps", "snapshot": "snapshots", "template": "template ls"}

func listOf(cmd *cobra.Command, err error) string {
	kind, _, _ := strings.Cut(err.Error(), " ")
	if l := lists[kind]; l != "" {
		return l
	}
	if l := cmd.Annotations[listKey]; l != "" {
		return l
	}
	return "ps"
}
