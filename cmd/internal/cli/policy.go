package cli

import (
	"net/netip"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
)

// wakeFlags say which traffic wakes an app, and whether its timers do.
type wakeFlags struct {
	mode     wakeMode
	minBytes int64
	ignore   []netip.Prefix
	silent   time.Duration
	waits    func() bool // silent was given
	timers   bool
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

// add adds the flags; def is what applies without any of them.
func (f *wakeFlags) add(cmd *cobra.Command, def string) {
	fs := cmd.Flags()
	fs.Var(value.One(&f.mode, "on-data|on-connect|never", value.Word(onData, onConnect, never)), "wake", "which traffic wakes the app from hibernation (default "+def+")")
	fs.Var(value.One(&f.minBytes, "N", value.ParseCount), "wake-min-bytes", "with on-data: how much must wait on one connection (default 1)")
	fs.DurationVar(&f.silent, "wake-silent-after", 0, "with on-data: a new connection that stays open and silent for this `DURATION` wakes the app too, since its client waits for the app to speak first, as those of MySQL, SMTP and SSH do; 0: it never does (default 1.5s)")
	f.waits = func() bool { return fs.Changed("wake-silent-after") }
	fs.BoolVar(&f.timers, "wake-timers", false, "whatever --wake says, the app's own timers wake it too, as an alarm clock does, and its clocks and timers go on while it is hibernated")
	fs.Var(value.List(&f.ignore, "PREFIX", value.ParsePrefix), "wake-ignore", "source addresses whose traffic never wakes the app; repeatable")
	completeFlag(cmd, "wake", cobra.FixedCompletions([]string{string(onData), string(onConnect), string(never)}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "wake-min-bytes", cobra.NoFileCompletions)
	completeFlag(cmd, "wake-silent-after", cobra.NoFileCompletions)
	completeFlag(cmd, "wake-ignore", cobra.NoFileCompletions)
}

func (f *wakeFlags) check() error {
	switch {
	case f.minBytes > 0 && f.mode != "" && f.mode != onData:
		return usagef("--wake-min-bytes goes with --wake on-data, not %s", f.mode)
	case f.waits() && f.mode != "" && f.mode != onData:
		return usagef("--wake-silent-after goes with --wake on-data, not %s", f.mode)
	case f.silent < 0:
		return usagef("--wake-silent-after %s is negative", f.silent)
	case len(f.ignore) > 0 && f.mode == never:
		return usagef("--wake-ignore makes no sense with --wake never")
	default:
		return nil
	}
}

// message is what the flags say.
func (f *wakeFlags) message() *api.WakePolicy {
	p := &api.WakePolicy{Mode: wakeModes[f.mode], MinBytes: int32(f.minBytes), Timers: f.timers}
	for _, prefix := range f.ignore {
		p.Ignore = append(p.Ignore, prefix.String())
	}
	if f.waits() {
		p.SilentAfter = durationpb.New(f.silent)
	}
	return p
}

// sleepFlag says when an app is hibernated.
type sleepFlag struct {
	after time.Duration
	given func() bool
}

func (f *sleepFlag) add(cmd *cobra.Command, def string) {
	if def != "" {
		def = " (default " + def + ")"
	}
	cmd.Flags().DurationVar(&f.after, "hibernate-after", 0, "hibernate after this `DURATION` without traffic; 0 is by command only"+def)
	f.given = func() bool { return cmd.Flags().Changed("hibernate-after") }
	completeFlag(cmd, "hibernate-after", cobra.NoFileCompletions)
}

// message is what the flag says; nil if it is not there.
func (f *sleepFlag) message() (*durationpb.Duration, error) {
	if !f.given() {
		return nil, nil
	}
	if f.after < 0 {
		return nil, usagef("--hibernate-after %s is negative", f.after)
	}
	return durationpb.New(f.after), nil
}

// memoryFlag says how processes get their memory back, now and later.
type memoryFlag struct{ way restoreMemory }

// restoreMemory is a way for memory to come back.
type restoreMemory string

const (
	mappedMemory restoreMemory = "mapped"
	copiedMemory restoreMemory = "copied"
)

var restoreMemories = map[restoreMemory]api.RestoreMemory{
	mappedMemory: api.RestoreMemory_RESTORE_MEMORY_MAPPED, copiedMemory: api.RestoreMemory_RESTORE_MEMORY_COPIED,
}

func (f *memoryFlag) add(cmd *cobra.Command, def string) {
	cmd.Flags().Var(value.One(&f.way, "mapped|copied", value.Word(mappedMemory, copiedMemory)), "restore-memory", "how the app gets its memory back, whenever it is woken or made of a snapshot (default "+def+")")
	completeFlag(cmd, "restore-memory", cobra.FixedCompletions([]string{string(mappedMemory), string(copiedMemory)}, cobra.ShellCompDirectiveNoFileComp))
}

// message is what the flag says.
func (f *memoryFlag) message() api.RestoreMemory { return restoreMemories[f.way] }

// policyText is the part about these flags of the help of clone and restore.
const policyText = `When it is hibernated, what wakes it, how it gets its memory back and whether files
may be missing is as for the app that was saved. --hibernate-after, --restore-memory and
--accept-changed-files (or --accept-changed-files=false) say otherwise, and --wake,
--wake-min-bytes, --wake-silent-after, --wake-timers and --wake-ignore do so together:
with one of them, those that are left out have their defaults.`

// whenever is when the policy of an app applies.
const whenever = "whenever the app is woken or made of a snapshot, "

// policyFlags are those of commands that make apps of a snapshot.
type policyFlags struct {
	wake   wakeFlags
	after  sleepFlag
	memory memoryFlag
	files  acceptFlag
	waken  func() bool
}

func (f *policyFlags) add(cmd *cobra.Command) {
	f.wake.add(cmd, asSaved)
	f.after.add(cmd, asSaved)
	f.memory.add(cmd, asSaved)
	f.files.add(cmd, whenever, asSaved)
	f.waken = func() bool {
		fs := cmd.Flags()
		return slices.ContainsFunc([]string{"wake", "wake-min-bytes", "wake-silent-after", "wake-timers", "wake-ignore"}, fs.Changed)
	}
}

// messages are what the flags say; nil where they say nothing.
func (f *policyFlags) messages() (wake *api.WakePolicy, after *durationpb.Duration, err error) {
	if err := f.wake.check(); err != nil {
		return nil, nil, err
	}
	if f.waken() {
		wake = f.wake.message()
	}
	after, err = f.after.message()
	return wake, after, err
}
