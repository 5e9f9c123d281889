package cli

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

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
	wake          wakeFlags
	after         sleepFlag
	memory        memoryFlag
	lost          protectionFlag
	files         acceptFlag
	publish       []value.Publication
}

type limitFlags struct {
	memory int64
	cpus   float64
	pids   int64
}

func newRun(s *session) *cobra.Command {
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

The program sees the host's files, or those of --rootfs, and what it writes goes
into a layer of the app's own, except below --bind.`,
		Example: `  snapctl run --name cache --endpoint 10.77.0.7 -- redis-server --save '' --protected-mode no
  snapctl run --memory 512M --cpus 1.5 --hibernate-after 30s --publish 8080:80 -- nginx -g 'daemon off;'
  snapctl run --wake never --wake-timers --hibernate-after 10s -- /usr/bin/reminder
  snapctl run --rootfs /srv/images/web --bind /srv/data:/data:ro --user web --env MODE=test -- /usr/bin/web`,
		Args:              someOf("PROGRAM"),
		ValidArgsFunction: cobra.FixedCompletions(nil, cobra.ShellCompDirectiveDefault),
		Annotations:       map[string]string{programKey: "true", takenKey: "choose another --name, --endpoint or --publish, or remove the app that has it"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := f.request(s, args)
		if err != nil {
			return err
		}
		return s.call(func(ctx context.Context, c *client.Client, _ []string) error {
			app, err := c.Run(ctx, req)
			if err != nil {
				return err
			}
			return s.print(output.NewStarted(app))
		})(cmd, args)
	}
	f.add(s, cmd)
	return cmd
}

func (f *runFlags) add(s *session, cmd *cobra.Command) {
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
	f.wake.add(cmd, "on-data")
	f.after.add(cmd, "")
	f.memory.add(cmd, "mapped")
	f.lost.add(cmd, "whenever it is saved, ")
	f.files.add(cmd, whenever, "")
	fs.Var(value.List(&f.publish, "[ADDR:]HOSTPORT[:PORT][/udp]", value.ParsePublication), "publish", "make a port of the app reachable at the host's; repeatable")
	fs.SortFlags = false

	completeFlag(cmd, "network", s.ask(0, networkNames))
	completeFlag(cmd, "rootfs", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs))
	for _, name := range []string{"name", "endpoint", "hostname", "memory", "cpus", "pids", "publish"} {
		completeFlag(cmd, name, cobra.NoFileCompletions)
	}
}

// request makes the API's message of the flags.
func (f *runFlags) request(s *session, args []string) (*api.RunRequest, error) {
	if err := f.wake.check(); err != nil {
		return nil, err
	}
	after, err := f.after.message()
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
		Wake:   f.wake.message(), HibernateAfter: after, RestoreMemory: f.memory.message(), AcceptLost: f.lost.names(), AcceptChangedFiles: f.files.accept,
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
		if req.Rootfs, err = s.absolute(f.rootfs); err != nil {
			return nil, err
		}
	}
	for _, b := range f.binds {
		source, err := s.absolute(b.Source)
		if err != nil {
			return nil, err
		}
		req.Binds = append(req.Binds, &api.Bind{Source: source, Destination: b.Destination, ReadOnly: b.Access == value.ReadOnly})
	}
	return req, nil
}

// absolute is a path as the daemon, which works elsewhere, has to be told it.
func (s *session) absolute(path string) (string, error) {
	if filepath.IsAbs(path) {
		return filepath.Clean(path), nil
	}
	dir, err := s.world.Dir()
	if err != nil {
		return "", fmt.Errorf("resolve %s: %w", path, err)
	}
	return filepath.Join(dir, path), nil
}

// variable reads KEY=VALUE, or KEY alone, whose value comes from snapctl's own
// environment.
func (s *session) variable(text string) (string, error) {
	key, _, ok := strings.Cut(text, "=")
	if key == "" {
		return "", usagef("--env %q has no name", text)
	}
	if ok {
		return text, nil
	}
	v, ok := s.world.Env(key)
	if !ok {
		return "", usagef("--env %s: there is no such variable to take the value of", key)
	}
	return key + "=" + v, nil
}
