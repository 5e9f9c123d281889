package clones

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/policy"
	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
	"github.com/snapctl/snapctl/template"
)

// cloneFlags are the flags of clone.
type cloneFlags struct {
	count     int64
	pattern   string
	start     int64
	names     []string
	endpoints []netip.Addr
	set       []value.Setting
	storage   storage
	pool      poolUse
	keepGoing bool
	host      string
	policy    policy.Flags
}

// everywhere is what --host says instead of a host.
const everywhere = "spread"

// storage says whose files a clone has.
type storage string

const (
	sharedStorage  storage = "shared"
	privateStorage storage = "private"
)

var storages = map[storage]api.Storage{sharedStorage: api.Storage_STORAGE_SHARED, privateStorage: api.Storage_STORAGE_PRIVATE}

// poolUse says whether clones are taken from the pool.
type poolUse string

const (
	usePool   poolUse = "use"
	onlyPool  poolUse = "only"
	neverPool poolUse = "never"
)

var poolUses = map[poolUse]api.PoolUse{onlyPool: api.PoolUse_POOL_USE_ONLY, neverPool: api.PoolUse_POOL_USE_NEVER}

// NewClone makes the command `snapctl clone`.
func NewClone(s *session.Session) *cobra.Command {
	var f cloneFlags
	cmd := &cobra.Command{
		Use:   "clone TEMPLATE [flags]",
		Short: "Make apps of a template",
		Long: `Make apps of a template. Each goes on where the app was when it was saved, shares
memory and files with the template until it writes to them, has a name, a number
and an address of its own, and inside what the template's rules say.

Either all clones are made or none, also if there is no time for some (--timeout).
With --keep-going those stay that could be made, and if some could not the exit code
is 6.

With --host another host of the installation makes the clones; with --host spread all
hosts that are alive do, this one too, by the memory that they have available. A host
that lacks the template gets it (see snapctl template push), and keeps it if it makes a
clone. Names and numbers are as if one host made them, and each clone has an address
that its own host gives out. If they are spread each host makes all of its part or
none: what the others have made stays, and the exit code is 6.

` + policy.Text + `

In --name-pattern {n} is the clone's number, and {n:03} fills it up with zeros to
3 digits.`,
		Example: `  snapctl clone web
  snapctl clone web --count 10 --name-pattern 'web-{n:02}' --set MODE=test
  snapctl clone web --count 30 --host spread
  snapctl clone web --name blue --name green --endpoint 10.77.0.20 --endpoint 10.77.0.21`,
		Args:              session.Exactly("TEMPLATE"),
		ValidArgsFunction: s.Ask(1, templateNames),
		Annotations:       map[string]string{session.ListKey: "template ls", session.TakenKey: "choose another --name-pattern, --name or --endpoint, or remove the app that has it"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := f.request(args[0])
		if err != nil {
			return err
		}
		req.Timeout = s.Patience()
		return s.Dialled(func(ctx context.Context, c *client.Client, _ []string) error { return clone(ctx, s, c, req) })(cmd, args)
	}
	f.add(s, cmd)
	return cmd
}

func (f *cloneFlags) add(s *session.Session, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.Var(value.One(&f.count, "N", value.ParseCount), "count", "how many (default: one, or as many as there are names or endpoints)")
	fs.StringVar(&f.pattern, "name-pattern", "", "names of the apps, a `PATTERN` such as web-{n} (default: TEMPLATE-{n})")
	fs.Var(value.One(&f.start, "N", value.ParseCount), "start", "number of the first (default: after the highest there is)")
	fs.StringArrayVar(&f.names, "name", nil, "`NAME` of one app, instead of a pattern; repeatable")
	fs.Var(value.List(&f.endpoints, "ADDR", value.ParseIPv4), "endpoint", "address of one app (default: the next free ones); repeatable")
	fs.Var(value.List(&f.set, "KEY=VALUE", value.ParseSetting), "set", "set a parameter of the template's rules; repeatable")
	fs.Var(value.One(&f.storage, "shared|private", value.Word(sharedStorage, privateStorage)), "storage", "share the template's files, or copy them (default shared)")
	fs.Var(value.One(&f.pool, "use|only|never", value.Word(usePool, onlyPool, neverPool)), "pool", "take clones that stand ready, only those, or none (default use)")
	f.policy.Add(s, cmd)
	fs.StringVar(&f.host, "host", "", "the `HOST` that makes them, or spread: all that are alive (default: this one)")
	fs.BoolVar(&f.keepGoing, "keep-going", false, "one that can't be made does not undo the others")
	fs.SortFlags = false

	session.CompleteFlag(cmd, "storage", cobra.FixedCompletions([]string{string(sharedStorage), string(privateStorage)}, cobra.ShellCompDirectiveNoFileComp))
	session.CompleteFlag(cmd, "pool", cobra.FixedCompletions([]string{string(usePool), string(onlyPool), string(neverPool)}, cobra.ShellCompDirectiveNoFileComp))
	session.CompleteFlag(cmd, "set", parameterKeys(s))
	session.CompleteFlag(cmd, "host", s.Ask(0, placeNames))
	for _, name := range []string{"count", "name-pattern", "start", "name", "endpoint"} {
		session.CompleteFlag(cmd, name, cobra.NoFileCompletions)
	}
}

// request makes the API's message of the flags.
func (f *cloneFlags) request(name string) (*api.CloneRequest, error) {
	switch {
	case len(f.names) > 0 && (f.pattern != "" || f.start > 0):
		return nil, session.Usagef("--name goes without --name-pattern and --start")
	case len(f.names) > 0 && f.count > 0 && int64(len(f.names)) != f.count:
		return nil, session.Usagef("--count %d, but there are %d names", f.count, len(f.names))
	}
	count := max(f.count, int64(len(f.names)))
	if count == 0 {
		count = max(1, int64(len(f.endpoints)))
	}
	if n := int64(len(f.endpoints)); n > 0 && n != count {
		return nil, session.Usagef("%d of --endpoint, but --count %d: want one for each clone, or none", n, count)
	}
	req := &api.CloneRequest{
		Template: name, Count: int32(count), NamePattern: f.pattern, Start: int32(f.start), Names: f.names,
		Storage: storages[f.storage], Pool: poolUses[f.pool], KeepGoing: f.keepGoing,
		Host: f.host,
	}
	if f.host == everywhere {
		req.Host, req.Spread = "", true
	}
	req.RestoreMemory, req.AcceptChangedFiles = f.policy.Memory.Message(), f.policy.Files.Message()
	var err error
	if req.Wake, req.HibernateAfter, err = f.policy.Messages(); err != nil {
		return nil, err
	}
	if f.pattern != "" {
		p, err := template.ParseNamePattern(f.pattern)
		if err == nil {
			_, err = p.Expand(max(1, int(f.start)), int(count), nil)
		}
		if err != nil {
			return nil, session.Usagef("--name-pattern: %v", err)
		}
	}
	for _, a := range f.endpoints {
		req.Endpoints = append(req.Endpoints, a.String())
	}
	for _, one := range f.set {
		if _, twice := req.Set[one.Key]; twice {
			return nil, session.Usagef("--set %s twice", one.Key)
		}
		if req.Set == nil {
			req.Set = make(map[string]string)
		}
		req.Set[one.Key] = one.Value
	}
	return req, nil
}

// clone makes the clones and prints each when it is done.
func clone(ctx context.Context, s *session.Session, c *client.Client, req *api.CloneRequest) error {
	ctx, cancel := s.Limit(ctx, session.Grace)
	defer cancel()
	line := s.Progress(req.GetTemplate())
	var results []output.Result
	var failed []output.Failure
	var errs session.JoinedErrors
	var printed error
	summary, err := c.Clone(ctx, req, client.CloneWatch{
		Progress: func(p *api.CloneProgress) { line.Tell(&api.Progress{Step: cloneStep(p)}) },
		Result: func(r *api.CloneResult) {
			if err := client.CloneError(r); err != nil {
				err = &cloneError{r.GetName(), session.Named(r.GetName(), err)}
				errs = append(errs, err)
				failed = append(failed, output.NewFailure(r.GetName(), int(session.CodeOf(err)), err))
				return
			}
			made := output.NewClone(r)
			results = append(results, made)
			if s.Format == output.AsTable && req.GetKeepGoing() && printed == nil { // else it may yet be undone
				line.Clear()
				s.Note(&made)
				printed = s.Print(output.NewResults(results[len(results)-1:], nil))
			}
		},
	})
	line.Clear()
	if err != nil {
		if req.GetKeepGoing() {
			errs = append(errs, &session.AdviceError{Err: err, Advice: keptHints(err)})
		} else {
			results = nil
			errs = undone(req.GetCount(), errs, err)
		}
		if len(failed) == 0 {
			failed = append(failed, output.NewFailure(req.GetTemplate(), int(session.CodeOf(err)), err))
		}
	} else if len(errs) > 0 && len(results) > 0 {
		errs = append(session.JoinedErrors{&session.ExitError{Code: session.Partly, Text: fmt.Sprintf("%d of %d clones of %s could not be made", len(errs), len(errs)+len(results), req.GetTemplate())}}, errs...)
	}
	errs = together(errs)
	for _, note := range summary.GetNotes() {
		if s.Format == output.AsTable {
			s.Say("note", note)
		}
	}
	for i := range results {
		if !results[i].Complete {
			errs = append(errs, session.NotAll(&results[i]))
		}
	}
	if s.Format == output.AsTable && !req.GetKeepGoing() && printed == nil {
		for i := range results {
			s.Note(&results[i])
		}
		printed = s.Print(output.NewResults(results, nil))
	}
	if printed == nil {
		printed = s.Print(output.NewClones(req.GetTemplate(), time.Duration(summary.GetTotalUs())*time.Microsecond, results, failed, summary.GetNotes()...))
	}
	switch {
	case printed != nil:
		return printed
	case len(errs) > 0:
		return errs
	default:
		return nil
	}
}
