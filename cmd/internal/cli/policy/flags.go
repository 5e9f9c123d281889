// Package policy has flags that several commands of snapctl share: what wakes an app, when it is
// hibernated, how it gets its memory back, which protections it may lose when it is saved, and
// whether files of binds may be missing.
//
// A flag, or a group of flags, is a struct. Its Add adds it to a command. After the command line is
// parsed, its Message is what the API is to be told.
package policy

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// Wake say which traffic wakes an app, and whether its timers do.
type Wake struct {
	mode     wakeMode
	minBytes int64
	ignore   []netip.Prefix
	silent   time.Duration
	waits    func() bool // silent was given
	timers   bool
	host     string // that it is woken on by traffic
}

// wakeMode is the kind of traffic.
type wakeMode string

const (
	onData    wakeMode = "on-data"
	onConnect wakeMode = "on-connect"
	never     wakeMode = "never"
)

var wakeModes = map[wakeMode]api.WakeMode{
	onData: api.WakeMode_WAKE_MODE_ON_DATA, onConnect: api.WakeMode_WAKE_MODE_ON_CONNECT, never: api.WakeMode_WAKE_MODE_NEVER,
}

// asSaved is what applies to clones and restored apps unless a flag says otherwise.
const asSaved = "as the app that was saved"

// Any is said instead of a host: that with most memory available.
const Any = "any"

// Places lists the hosts that apps can be woken on.
func Places(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	all, err := session.HostNames(ctx, c)
	return append(all, cobra.CompletionWithDesc(Any, "the host with most memory available")), err
}

// Add adds the flags; def is what applies without any of them.
func (f *Wake) Add(s *session.Session, cmd *cobra.Command, def string) {
	fs := cmd.Flags()
	fs.Var(value.One(&f.mode, "on-data|on-connect|never", value.Word(onData, onConnect, never)), "wake", "which traffic wakes the app from hibernation (default "+def+")")
	fs.Var(value.One(&f.minBytes, "N", value.ParseCount), "wake-min-bytes", "with on-data: how much must wait on one connection (default 1)")
	fs.DurationVar(&f.silent, "wake-silent-after", 0, "with on-data: a new connection that stays open and silent for this `DURATION` wakes the app too, since its client waits for the app to speak first, as those of MySQL, SMTP and SSH do; 0: it never does (default 1.5s)")
	f.waits = func() bool { return fs.Changed("wake-silent-after") }
	fs.BoolVar(&f.timers, "wake-timers", false, "whatever --wake says, the app's own timers wake it too, as an alarm clock does, and its clocks and timers go on while it is hibernated")
	fs.Var(value.List(&f.ignore, "PREFIX", value.ParsePrefix), "wake-ignore", "source addresses whose traffic never wakes the app; repeatable")
	fs.StringVar(&f.host, "wake-elsewhere", "", "the `HOST` that traffic wakes the app on, to which it moves as it sleeps, or any: that with most memory available. If it can't move it wakes where it is")
	session.CompleteFlag(cmd, "wake-elsewhere", s.Ask(0, Places))
	session.CompleteFlag(cmd, "wake", cobra.FixedCompletions([]string{string(onData), string(onConnect), string(never)}, cobra.ShellCompDirectiveNoFileComp))
	session.CompleteFlag(cmd, "wake-min-bytes", cobra.NoFileCompletions)
	session.CompleteFlag(cmd, "wake-silent-after", cobra.NoFileCompletions)
	session.CompleteFlag(cmd, "wake-ignore", cobra.NoFileCompletions)
}

// Check tells of flags that make no sense together: a usage error.
func (f *Wake) Check() error {
	switch {
	case f.minBytes > 0 && f.mode != "" && f.mode != onData:
		return session.Usagef("--wake-min-bytes goes with --wake on-data, not %s", f.mode)
	case f.waits() && f.mode != "" && f.mode != onData:
		return session.Usagef("--wake-silent-after goes with --wake on-data, not %s", f.mode)
	case f.silent < 0:
		return session.Usagef("--wake-silent-after %s is negative", f.silent)
	case len(f.ignore) > 0 && f.mode == never:
		return session.Usagef("--wake-ignore makes no sense with --wake never")
	case f.host != "" && f.mode == never:
		return session.Usagef("--wake-elsewhere makes no sense with --wake never")
	default:
		return nil
	}
}

// Message is what the flags say.
func (f *Wake) Message() *api.WakePolicy {
	p := &api.WakePolicy{Mode: wakeModes[f.mode], MinBytes: int32(f.minBytes), Timers: f.timers, Elsewhere: f.host}
	for _, prefix := range f.ignore {
		p.Ignore = append(p.Ignore, prefix.String())
	}
	if f.waits() {
		p.SilentAfter = durationpb.New(f.silent)
	}
	return p
}

// Sleep says when an app is hibernated.
type Sleep struct {
	after time.Duration
	given func() bool
}

// Add adds the flag; def is what applies without it.
func (f *Sleep) Add(cmd *cobra.Command, def string) {
	if def != "" {
		def = " (default " + def + ")"
	}
	cmd.Flags().DurationVar(&f.after, "hibernate-after", 0, "hibernate after this `DURATION` without traffic; 0 is by command only"+def)
	f.given = func() bool { return cmd.Flags().Changed("hibernate-after") }
	session.CompleteFlag(cmd, "hibernate-after", cobra.NoFileCompletions)
}

// Message is what the flag says; nil if it is not there.
func (f *Sleep) Message() (*durationpb.Duration, error) {
	if !f.given() {
		return nil, nil
	}
	if f.after < 0 {
		return nil, session.Usagef("--hibernate-after %s is negative", f.after)
	}
	return durationpb.New(f.after), nil
}

// Memory says how processes get their memory back, now and later.
type Memory struct{ way restoreMemory }

// restoreMemory is a way for memory to come back.
type restoreMemory string

const (
	mappedMemory restoreMemory = "mapped"
	copiedMemory restoreMemory = "copied"
)

var restoreMemories = map[restoreMemory]api.RestoreMemory{
	mappedMemory: api.RestoreMemory_RESTORE_MEMORY_MAPPED, copiedMemory: api.RestoreMemory_RESTORE_MEMORY_COPIED,
}

// Add adds the flag; def is what applies without it.
func (f *Memory) Add(cmd *cobra.Command, def string) {
	cmd.Flags().Var(value.One(&f.way, "mapped|copied", value.Word(mappedMemory, copiedMemory)), "restore-memory", "how the app gets its memory back, whenever it is woken or made of a snapshot (default "+def+")")
	session.CompleteFlag(cmd, "restore-memory", cobra.FixedCompletions([]string{string(mappedMemory), string(copiedMemory)}, cobra.ShellCompDirectiveNoFileComp))
}

// Message is what the flag says.
func (f *Memory) Message() api.RestoreMemory { return restoreMemories[f.way] }

// Text is the part about these flags of the help of clone and restore.
const Text = `When it is hibernated, what wakes it, how it gets its memory back and whether files
may be missing is as for the app that was saved. --hibernate-after, --restore-memory and
--accept-changed-files (or --accept-changed-files=false) say otherwise, and --wake,
--wake-min-bytes, --wake-silent-after, --wake-timers, --wake-ignore and --wake-elsewhere
do so together: with one of them, those that are left out have their defaults.`

// Whenever is when the policy of an app applies.
const Whenever = "whenever the app is woken or made of a snapshot, "

// Flags are those of commands that make apps of a snapshot.
type Flags struct {
	Wake   Wake
	After  Sleep
	Memory Memory
	Files  Files
	waken  func() bool
}

// Add adds all of the flags.
func (f *Flags) Add(s *session.Session, cmd *cobra.Command) {
	f.Wake.Add(s, cmd, asSaved)
	f.After.Add(cmd, asSaved)
	f.Memory.Add(cmd, asSaved)
	f.Files.Add(cmd, Whenever, asSaved)
	f.waken = func() bool {
		fs := cmd.Flags()
		return slices.ContainsFunc([]string{"wake", "wake-min-bytes", "wake-silent-after", "wake-timers", "wake-ignore", "wake-elsewhere"}, fs.Changed)
	}
}

// Messages are what the flags say; nil where they say nothing.
func (f *Flags) Messages() (wake *api.WakePolicy, after *durationpb.Duration, err error) {
	if err := f.Wake.Check(); err != nil {
		return nil, nil, err
	}
	if f.waken() {
		wake = f.Wake.Message()
	}
	after, err = f.After.Message()
	return wake, after, err
}
