// Package apps has the commands of snapctl that do something to one app, or to several, one after the
// other: run, exec, stop, rm, hibernate, wake, snapshot and restore. Removing snapshots is here
// too, below the command that lists them.
//
// Each file is a command. It makes the API's message of its flags, and has a session send it.
package apps

import (
	"context"
	"net/netip"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/policy"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// runFlags are the flags of run.
type runFlags struct {
	name, network string
	endpoint      netip.Addr
	rootfs        string
	binds         []value.Bind
	process       processFlags
	hostname      string
	limits        limitFlags
	wake          policy.Wake
	after         policy.Sleep
	memory        policy.Memory
	lost          policy.Lost
	files         policy.Files
	publish       []value.Publication
}

type limitFlags struct {
	memory int64
	cpus   float64
	pids   int64
}

// NewRun makes the command `snapctl run`.
func NewRun(s *session.Session) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- PROGRAM [ARG...]",
		Short: "Run a program as an app",
		Long: `Run a program as an app: in a sandbox of its own, with an endpoint on a virtual
network. The app goes on when snapctl ends; its output is in its log.

Memory comes back mapped from what was saved, and only what is written to is copied.
Some programs take it for fatal that such memory can't be dropped (madvise); for these
--restore-memory copied has all of it copied, as CRIU does it.

An app that was hibernated wakes by traffic, as --wake says. With --wake-timers the first
of its own timers to expire wakes it too: timerfds, ITIMER_REAL and POSIX timers, but not
the end of a call that sleeps, such as sleep or poll, which nobody can see. Its clocks and
timers then go on while it sleeps; without it they stand still.

With --wake-elsewhere the app is woken on another host of the installation: when traffic
is to wake it, it moves there as it sleeps, with its connections, and runs there. If it
can't, or that fails, it wakes where it is, and snapctl show has a note. Its timers wake it
where it is.

The program sees the host's files, or those of --rootfs, and what it writes goes
into a layer of the app's own, except below --bind.`,
		Example: `  snapctl run --name cache --endpoint 10.77.0.7 -- redis-server --save '' --protected-mode no
  snapctl run --memory 512M --cpus 1.5 --hibernate-after 30s --publish 8080:80 -- nginx -g 'daemon off;'
  snapctl run --wake never --wake-timers --hibernate-after 10s -- /usr/bin/reminder
  snapctl run --hibernate-after 10m --wake-elsewhere any -- redis-server
  snapctl run --rootfs /srv/images/web --bind /srv/data:/data:ro --user web --env MODE=test -- /usr/bin/web`,
		Args:              session.SomeOf("PROGRAM"),
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault),
		Annotations:       map[string]string{session.ProgramKey: "true", session.TakenKey: "choose another --name, --endpoint or --publish, or remove the app that has it"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := f.request(s, args)
		if err != nil {
			return err
		}
		return s.Call(func(ctx context.Context, c *client.Client, _ []string) error {
			app, err := c.Run(ctx, req)
			if err != nil {
				return err
			}
			return s.Print(output.NewStarted(app))
		})(cmd, args)
	}
	f.add(s, cmd)
	return cmd
}

func (f *runFlags) add(s *session.Session, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.StringVar(&f.name, "name", "", "`NAME` of the app (default: chosen after the program)")
	fs.Var(value.One(&f.endpoint, "ADDR", value.ParseIPv4), "endpoint", "address of the app on its network (default: the next free one)")
	fs.StringVar(&f.network, "network", "", "virtual network of the app, its `NAME` (default \"default\")")
	fs.StringVar(&f.rootfs, "rootfs", "", "`DIR` with the app's files (default: the host's files)")
	fs.Var(value.List(&f.binds, "SRC:DST[:ro]", value.ParseBind), "bind", "show the app a file or directory of the host, not copied; repeatable")
	f.process.add(fs)
	fs.StringVar(&f.hostname, "hostname", "", "host `NAME` that the app sees (default: its name)")
	fs.Var(value.One(&f.limits.memory, "SIZE", value.ParseSize), "memory", "most memory, such as 512M")
	fs.Var(value.One(&f.limits.cpus, "N", value.ParseCPUs), "cpus", "most processors, such as 1.5")
	fs.Var(value.One(&f.limits.pids, "N", value.ParseCount), "pids", "most processes and threads")
	f.wake.Add(s, cmd, "on-data")
	f.after.Add(cmd, "")
	f.memory.Add(cmd, "mapped")
	f.lost.Add(cmd, "whenever it is saved, ")
	f.files.Add(cmd, policy.Whenever, "")
	fs.Var(value.List(&f.publish, "[ADDR:]HOSTPORT[:PORT][/udp]", value.ParsePublication), "publish", "make a port of the app reachable at the host's; repeatable")
	fs.SortFlags = false

	session.CompleteFlag(cmd, "network", s.Ask(0, session.NetworkNames))
	session.CompleteFlag(cmd, "rootfs", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs))
	for _, name := range []string{"name", "endpoint", "hostname", "memory", "cpus", "pids", "publish"} {
		session.CompleteFlag(cmd, name, cobra.NoFileCompletions)
	}
}

// request makes the API's message of the flags.
func (f *runFlags) request(s *session.Session, args []string) (*api.RunRequest, error) {
	if err := f.wake.Check(); err != nil {
		return nil, err
	}
	after, err := f.after.Message()
	if err != nil {
		return nil, err
	}
	env, err := f.process.environment(s)
	if err != nil {
		return nil, err
	}
	req := &api.RunRequest{
		Name: f.name, Args: args, Network: f.network, Hostname: f.hostname,
		Env: env, Workdir: f.process.workdir, User: f.process.user,
		Limits: &api.Limits{MemoryBytes: f.limits.memory, Cpus: f.limits.cpus, Pids: f.limits.pids},
		Wake:   f.wake.Message(), HibernateAfter: after, RestoreMemory: f.memory.Message(), AcceptLost: f.lost.Words(), AcceptChangedFiles: f.files.Accept,
	}
	if f.endpoint.IsValid() {
		req.Endpoint = f.endpoint.String()
	}
	for _, p := range f.publish {
		pub := &api.Publication{Protocol: string(p.Protocol), HostPort: uint32(p.HostPort), Port: uint32(p.Port)}
		if p.HostAddress.IsValid() {
			pub.HostAddress = p.HostAddress.String()
		}
		req.Publish = append(req.Publish, pub)
	}
	if f.rootfs != "" {
		if req.Rootfs, err = s.World.Absolute(f.rootfs); err != nil {
			return nil, err
		}
	}
	for _, b := range f.binds {
		source, err := s.World.Absolute(b.Source)
		if err != nil {
			return nil, err
		}
		req.Binds = append(req.Binds, &api.Bind{Source: source, Destination: b.Destination, ReadOnly: b.Access == value.ReadOnly})
	}
	return req, nil
}
