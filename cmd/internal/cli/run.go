package cli

import (
	"context"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

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
	after         time.Duration
	publish       []value.Publication
}

type limitFlags struct {
	memory int64
	cpus   float64
	pids   int64
}

type wakeFlags struct {
	mode     wakeMode
	minBytes int64
	ignore   []netip.Prefix
}

// wakeMode says which traffic wakes an app.
type wakeMode string

const (
	onData    wakeMode = "on-data"
	onConnect wakeMode = "on-connect"
	never     wakeMode = "never"
)

var wakeModes = map[wakeMode]api.WakeMode{
	onData: api.WakeMode_WAKE_MODE_ON_DATA, onConnect: api.WakeMode_WAKE_MODE_ON_CONNECT, never: api.WakeMode_WAKE_MODE_NEVER,
}

func newRun(s *session) *cobra.Command {
	var f runFlags
	cmd := &cobra.Command{
		Use:   "run [flags] -- PROGRAM [ARG...]",
		Short: "Run a program as an app",
		Long: `Run a program as an app: in a sandbox of its own, with an endpoint on a virtual
network. The app goes on when snapctl ends; its output is in its log.

The program sees the host's files, or those of --rootfs, and what it writes goes
into a layer of the app's own, except below --bind.`,
		Example: `  snapctl run --name cache --endpoint 10.77.0.7 -- redis-server --save '' --protected-mode no
  snapctl run --memory 512M --cpus 1.5 --hibernate-after 30s --publish 8080:80 -- nginx -g 'daemon off;'
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
	fs.Var(value.One(&f.wake.mode, "on-data|on-connect|never", value.Word(onData, onConnect, never)), "wake", "which traffic wakes the app from hibernation (default on-data)")
	fs.Var(value.One(&f.wake.minBytes, "N", value.ParseCount), "wake-min-bytes", "with on-data: how much must wait on one connection (default 1)")
	fs.Var(value.List(&f.wake.ignore, "PREFIX", value.ParsePrefix), "wake-ignore", "source addresses whose traffic never wakes the app; repeatable")
	fs.DurationVar(&f.after, "hibernate-after", 0, "hibernate after this `DURATION` without traffic; 0 is by command only")
	fs.Var(value.List(&f.publish, "[ADDR:]HOSTPORT[:PORT][/udp]", value.ParsePublication), "publish", "make a port of the app reachable at the host's; repeatable")
	fs.SortFlags = false

	completeFlag(cmd, "wake", cobra.FixedCompletions([]string{string(onData), string(onConnect), string(never)}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "network", s.ask(0, networkNames))
	completeFlag(cmd, "rootfs", cobra.FixedCompletions(nil, cobra.ShellCompDirectiveFilterDirs))
	for _, name := range []string{"name", "endpoint", "hostname", "memory", "cpus", "pids", "wake-min-bytes", "wake-ignore", "hibernate-after", "publish"} {
		completeFlag(cmd, name, cobra.NoFileCompletions)
	}
}

// request makes the API's message of the flags.
func (f *runFlags) request(s *session, args []string) (*api.RunRequest, error) {
	if err := f.wake.check(); err != nil {
		return nil, err
	}
	if f.after < 0 {
		return nil, usagef("--hibernate-after %s is negative", f.after)
	}
	env, err := f.process.environment(s)
	if err != nil {
		return nil, err
	}
	req := &api.RunRequest{
		Name: f.name, Args: args, Network: f.network, Hostname: f.hostname,
		Env: env, Workdir: f.process.workdir, User: f.process.user,
		Limits: &api.Limits{MemoryBytes: f.limits.memory, Cpus: f.limits.cpus, Pids: f.limits.pids},
		Wake:   &api.WakePolicy{Mode: wakeModes[f.wake.mode], MinBytes: int32(f.wake.minBytes)},
	}
	if f.endpoint.IsValid() {
		req.Endpoint = f.endpoint.String()
	}
	if f.after > 0 {
		req.HibernateAfter = durationpb.New(f.after)
	}
	for _, p := range f.wake.ignore {
		req.Wake.Ignore = append(req.Wake.Ignore, p.String())
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

func (f *wakeFlags) check() error {
	switch {
	case f.minBytes > 0 && f.mode != "" && f.mode != onData:
		return usagef("--wake-min-bytes goes with --wake on-data, not %s", f.mode)
	case len(f.ignore) > 0 && f.mode == never:
		return usagef("--wake-ignore makes no sense with --wake never")
	default:
		return nil
	}
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
