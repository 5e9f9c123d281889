package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/apps"
	"github.com/snapctl/snapctl/cmd/internal/cli/clones"
	"github.com/snapctl/snapctl/cmd/internal/cli/hosts"
	"github.com/snapctl/snapctl/cmd/internal/cli/moves"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/cli/views"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/client"
)

// The groups of commands in the help.
const (
	groupApps  = "apps"
	groupSaved = "saved"
	groupMany  = "many"
	groupIDs   = "ids"
	groupHosts = "hosts"
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
    4  there is no such app, snapshot, template or host
    5  not possible on this host, or with this app
    6  it is done, but the app lost connections that it had, or only some of the
       clones could be made

exec ends with the exit code of the command that it ran.

Environment:

    SNAPCTL_SOCKET  where snapctld listens, see --socket
    SNAPCTL_CRIU    the CRIU that doctor looks at where no snapctld answers`

func newRoot(s *session.Session) *cobra.Command {
	root := &cobra.Command{
		Use:   "snapctl",
		Short: "Freeze, store and thaw programs that others talk to",
		Long:  rootLong,
		Example: `  snapctl run --name cache --endpoint 10.77.0.7 -- redis-server --save '' --protected-mode no
  snapctl hibernate cache
  redis-cli -h 10.77.0.7 ping   # wakes it`,
		SilenceErrors: true, SilenceUsage: true,
		Version:           s.World.Build.Version,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return checkGlobals(s, cmd) },
	}
	root.SetIn(s.World.In)
	root.SetOut(s.World.Out) // before addCompletion, which looks at it
	root.SetErr(s.World.Err)
	root.AddGroup(
		&cobra.Group{ID: groupApps, Title: "Apps:"},
		&cobra.Group{ID: groupSaved, Title: "Hibernation and snapshots:"},
		&cobra.Group{ID: groupMany, Title: "Templates and clones:"},
		&cobra.Group{ID: groupIDs, Title: "Identity and network:"},
		&cobra.Group{ID: groupHosts, Title: "Several hosts:"},
		&cobra.Group{ID: groupHost, Title: "This host:"},
	)
	addTo(root, groupApps, apps.NewRun(s), views.NewPs(s), views.NewShow(s), views.NewLogs(s), apps.NewExec(s), apps.NewStop(s), apps.NewRm(s))
	addTo(root, groupSaved, apps.NewHibernate(s), apps.NewWake(s), apps.NewSnapshot(s), apps.NewSnapshots(s), apps.NewRestore(s), views.NewInspect(s))
	addTo(root, groupMany, clones.NewTemplate(s), clones.NewClone(s))
	addTo(root, groupIDs, views.NewIDs(s), views.NewVem(s))
	addTo(root, groupHosts, hosts.NewHost(s), moves.NewMigrate(s))
	addTo(root, groupHost, views.NewEvents(s), views.NewDoctor(s), views.NewVersion(s))
	globalFlags(s, root)
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

// globalFlags adds the flags of all commands.
func globalFlags(s *session.Session, root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&s.Socket, "socket", "", "`PATH` where snapctld listens (default $"+session.SocketVariable+" or "+client.DefaultSocket+")")
	s.Format = output.AsTable
	f.VarP(value.One(&s.Format, "table|json", value.Word(output.AsTable, output.AsJSON)), "output", "o", "how results are printed (default table)")
	f.DurationVar(&s.Timeout, "timeout", 0, "give up each request after this `DURATION`; 0 leaves it to snapctld")
	session.CompleteFlag(root, "output", cobra.FixedCompletions([]string{string(output.AsTable), string(output.AsJSON)}, cobra.ShellCompDirectiveNoFileComp))
	session.CompleteFlag(root, "timeout", cobra.NoFileCompletions)
}

// checkGlobals checks the flags that globalFlags adds.
func checkGlobals(s *session.Session, cmd *cobra.Command) error {
	if cmd.Annotations[session.RawKey] != "" && cmd.Flags().Changed("output") {
		return session.Usagef("%s has no --output: it does not print a document", cmd.Name())
	}
	if s.Timeout < 0 {
		return session.Usagef("--timeout %s is negative", s.Timeout)
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
		e := &session.UsageError{Text: err.Error()}
		if c.Annotations[session.ProgramKey] != "" && c.ArgsLenAtDash() < 0 {
			e.Advice = []string{fmt.Sprintf("put -- before the program and its arguments: `%s`", c.UseLine())}
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

func unknownCommand(c *cobra.Command, name string) error {
	e := &session.UsageError{Text: fmt.Sprintf("unknown command %q for %q", name, c.CommandPath())}
	c.SuggestionsMinimumDistance = 2
	for _, near := range c.SuggestionsFor(name) {
		e.Advice = append(e.Advice, fmt.Sprintf("did you mean `%s %s`?", c.CommandPath(), near))
	}
	if len(e.Advice) == 0 {
		e.Advice = []string{"see `" + c.CommandPath() + " --help`"}
	}
	return e
}
