package session

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

// Report says what went wrong. With several errors, the first one gives the
// exit code.
func (s *Session) Report(cmd *cobra.Command, err error) ExitCode {
	if all, ok := err.(JoinedErrors); ok { //nolint:errorlint // returned by commands as it is
		for _, e := range all {
			s.Report(cmd, e)
		}
		return CodeOf(all[0])
	}
	if err.Error() != "" {
		s.Say("error", err.Error())
	}
	for _, hint := range s.Hints(cmd, err) {
		if !slices.Contains(s.said, hint) { // several errors may share one
			s.Say("hint", hint)
			s.said = append(s.said, hint)
		}
	}
	return CodeOf(err)
}

// Say writes a message to standard error. All lines but the first are indented.
func (s *Session) Say(kind, text string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	for i := range lines {
		lines[i] = output.Clean(strings.ReplaceAll(lines[i], "\t", "    "))
	}
	// Nothing is left to do about an error here.
	_, _ = fmt.Fprintf(s.World.Err, "snapctl: %s: %s\n", kind, strings.Join(lines, "\n  "))
}

// Hints are what the daemon advises, or else what is known here.
func (s *Session) Hints(cmd *cobra.Command, err error) []string {
	if a, ok := errors.AsType[*AdviceError](err); ok {
		return append(slices.Clone(a.Advice), s.Hints(cmd, a.Err)...)
	}
	if all := client.Hints(err); len(all) > 0 {
		return all
	}
	var usage *UsageError
	switch {
	case errors.As(err, &usage):
		return []string{"see `" + cmd.CommandPath() + " --help`"}
	case errors.Is(err, client.ErrNotRunning):
		return s.startHints()
	case errors.Is(err, fs.ErrPermission):
		if s.World.UID != 0 {
			return []string{"only root may use snapctl: try `sudo snapctl`"}
		}
		return []string{"the socket can't be opened even by root: look for a security module's or a container's restrictions"}
	case errdefs.IsUnavailable(err):
		return []string{"snapctld went away; it finishes or undoes what was begun when it starts: `systemctl status snapctld`"}
	case errdefs.IsNotImplemented(err) && strings.Contains(err.Error(), "unknown method"):
		return []string{"snapctld is older than snapctl: `systemctl restart snapctld`; apps go on meanwhile"}
	case errdefs.IsNotFound(err):
		return []string{"`snapctl " + listOf(cmd, err) + "` lists what there is"}
	case errdefs.IsAlreadyExists(err) && cmd.Annotations[TakenKey] != "":
		return []string{cmd.Annotations[TakenKey]}
	case errors.Is(err, context.DeadlineExceeded) && s.Timeout > 0:
		return []string{"--timeout " + s.Timeout.String() + " was too short for it"}
	default:
		return nil
	}
}

func (s *Session) startHints() []string {
	hint := "start it with `systemctl start snapctld`, or in the foreground with `snapctld --state-dir /var/lib/snapctl`"
	if s.World.UID != 0 {
		hint += "; both, and snapctl, need root"
	}
	return []string{hint}
}

// lists are the commands that list what an error begins with.
var lists = map[string]string{"app": "ps", "snapshot": "snapshots", "template": "template ls", "host": "host ls"}

func listOf(cmd *cobra.Command, err error) string {
	kind, _, _ := strings.Cut(err.Error(), " ")
	if l := lists[kind]; l != "" {
		return l
	}
	if l := cmd.Annotations[ListKey]; l != "" {
		return l
	}
	return "ps"
}
