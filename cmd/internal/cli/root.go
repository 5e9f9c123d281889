package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/client"
)

// SocketVariable is the environment variable that names the daemon's socket.
const SocketVariable = "SNAPCTL_SOCKET"

// session is one command line being run.
type session struct {
	world   World
	socket  string
	format  output.Format
	timeout time.Duration // 0: none
	said    []string      // hints and notes
}

// The groups of commands in the help.
const (
	groupApps  = "apps"
	groupSaved = "saved"
	groupMany  = "many"
	groupIDs   = "ids"
	groupHost  = "host"
)

const rootLong = `snapctl runs programs that can be frozen, stored and thawed while everyone who
talks to them notices nothing. It is the command line of snapctld, which runs on
this host as root.

Results are printed on standard output, all else on standard error. With
--output json results are JSON, which JSON.md documents.

Exit codes:

    0  it is done
    1  it failed
    2  the command line makes no sense
    4  there is no such app, snapshot or template
    5  not possible on this host, or with this app
    6  it is done, but the app lost connections that it had, or only some of the
       clones could be made

exec ends with the exit code of the command that it ran.

Environment:

    SNAPCTL_SOCKET  where snapctld listens, see --socket
    SNAPCTL_CRIU    the CRIU that doctor looks at where no snapctld answers`

func newRoot(s *session) *cobra.Command {
	root := &cobra.Command{
		Use:   "snapctl",
		Short: "Freeze, store and thaw programs that others talk to",
		Long:  rootLong,
		Example: `  snapctl run --name cache --endpoint 10.77.0.7 -- redis-server --save '' --protected-mode no
  snapctl hibernate cache
  redis-cli -h 10.77.0.7 ping   # wakes it`,
		SilenceErrors: true, SilenceUsage: true,
		Version:           s.world.Build.Version,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return s.checkOutput(cmd) },
	}
	root.SetIn(s.world.In)
	root.SetOut(s.world.Out) // before addCompletion, which looks at it
	root.SetErr(s.world.Err)
	root.AddGroup(
		&cobra.Group{ID: groupApps, Title: "Apps:"},
		&cobra.Group{ID: groupSaved, Title: "Hibernation and snapshots:"},
		&cobra.Group{ID: groupMany, Title: "Templates and clones:"},
		&cobra.Group{ID: groupIDs, Title: "Identity and network:"},
		&cobra.Group{ID: groupHost, Title: "This host:"},
	)
	addTo(root, groupApps, newRun(s), newPs(s), newShow(s), newLogs(s), newExec(s), newStop(s), newRm(s))
	addTo(root, groupSaved, newHibernate(s), newWake(s), newSnapshot(s), newSnapshots(s), newRestore(s), newInspect(s))
	addTo(root, groupMany, newTemplate(s), newClone(s))
	addTo(root, groupIDs, newIDs(s), newVem(s))
	addTo(root, groupHost, newEvents(s), newDoctor(s), newVersion(s))
	s.globalFlags(root)
	root.SetHelpCommand(newHelp())
	root.SetHelpCommandGroupID(groupHost)
	root.SetCompletionCommandGroupID(groupHost)
	addCompletion(root)
	for _, c := range tree(root) {
		strict(c)
	}
	// A group is made runnable (see strict), but is not used so.
	root.SetUsageTemplate(strings.Replace(root.UsageTemplate(), "{{if .Runnable}}", `{{if and .Runnable (not (index .Annotations "`+groupKey+`"))}}`, 1))
	return root
}

func addTo(root *cobra.Command, group string, commands ...*cobra.Command) {
	for _, c := range commands {
		c.GroupID = group
	}
	root.AddCommand(commands...)
}

func (s *session) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&s.socket, "socket", "", "`PATH` where snapctld listens (default $"+SocketVariable+" or "+client.DefaultSocket+")")
	s.format = output.AsTable
	f.VarP(value.One(&s.format, "table|json", value.Word(output.AsTable, output.AsJSON)), "output", "o", "how results are printed (default table)")
	f.DurationVar(&s.timeout, "timeout", 0, "give up each request after this `DURATION`; 0 leaves it to snapctld")
	completeFlag(root, "output", cobra.FixedCompletions([]string{string(output.AsTable), string(output.AsJSON)}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(root, "timeout", cobra.NoFileCompletions)
}

// rawKey is the annotation of a command that prints no document.
const rawKey = "raw"

// raw marks a command that has nothing to print as JSON.
func raw() map[string]string { return map[string]string{rawKey: "true"} }

func (s *session) checkOutput(cmd *cobra.Command) error {
	if cmd.Annotations[rawKey] != "" && cmd.Flags().Changed("output") {
		return usagef("%s has no --output: it does not print a document", cmd.Name())
	}
	if s.timeout < 0 {
		return usagef("--timeout %s is negative", s.timeout)
	}
	return nil
}

// tree lists a command and all below it.
func tree(c *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{c}
	for _, sub := range c.Commands() {
		all = append(all, tree(sub)...)
	}
	return all
}

// strict makes every mistake in a command line a usage error. Without it cobra
// answers an unknown command below the first level with help and exit code 0.
func strict(c *cobra.Command) {
	c.DisableFlagsInUseLine = true
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if rest := c.Flags().Args(); c.HasSubCommands() && len(rest) > 0 {
			return unknownCommand(c, rest[0])
		}
		e := &usageError{text: err.Error()}
		if c.Annotations[programKey] != "" && c.ArgsLenAtDash() < 0 {
			e.hints = []string{fmt.Sprintf("put -- before the program and its arguments: `%s`", c.UseLine())}
		}
		return e
	})
	if c.HasSubCommands() {
		c.Args = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(c, args[0])
			}
			return nil
		}
		if !c.Runnable() {
			c.Annotations = map[string]string{groupKey: "true"}
			c.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
		}
	}
}

// groupKey is the annotation of a command that only groups others.
const groupKey = "group"

// programKey is the annotation of a command whose arguments are a program's.
const programKey = "program"

func unknownCommand(c *cobra.Command, name string) error {
	e := &usageError{text: fmt.Sprintf("unknown command %q for %q", name, c.CommandPath())}
	c.SuggestionsMinimumDistance = 2
	for _, near := range c.SuggestionsFor(name) {
		e.hints = append(e.hints, fmt.Sprintf("did you mean `%s %s`?", c.CommandPath(), near))
	}
	if len(e.hints) == 0 {
		e.hints = []string{"see `" + c.CommandPath() + " --help`"}
	}
	return e
}
