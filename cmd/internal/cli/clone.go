package cli

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/spf13/cobra"

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
	policy    policyFlags
}

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

func newClone(s *session) *cobra.Command {
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

` + policyText + `

In --name-pattern {n} is the clone's number, and {n:03} fills it up with zeros to
3 digits.`,
		Example: `  snapctl clone web
  snapctl clone web --count 10 --name-pattern 'web-{n:02}' --set MODE=test
  snapctl clone web --name blue --name green --endpoint 10.77.0.20 --endpoint 10.77.0.21`,
		Args:              exactly("TEMPLATE"),
		ValidArgsFunction: s.ask(1, templateNames),
		Annotations:       map[string]string{listKey: "template ls", takenKey: "choose another --name-pattern, --name or --endpoint, or remove the app that has it"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		req, err := f.request(args[0])
		if err != nil {
			return err
		}
		req.Timeout = s.patience()
		return s.dialled(func(ctx context.Context, c *client.Client, _ []string) error { return s.clone(ctx, c, req) })(cmd, args)
	}
	f.add(s, cmd)
	return cmd
}

func (f *cloneFlags) add(s *session, cmd *cobra.Command) {
	fs := cmd.Flags()
	fs.Var(value.One(&f.count, "N", value.ParseCount), "count", "how many (default: one, or as many as there are names or endpoints)")
	fs.StringVar(&f.pattern, "name-pattern", "", "names of the apps, a `PATTERN` such as web-{n} (default: TEMPLATE-{n})")
	fs.Var(value.One(&f.start, "N", value.ParseCount), "start", "number of the first (default: after the highest there is)")
	fs.StringArrayVar(&f.names, "name", nil, "`NAME` of one app, instead of a pattern; repeatable")
	fs.Var(value.List(&f.endpoints, "ADDR", value.ParseIPv4), "endpoint", "address of one app (default: the next free ones); repeatable")
	fs.Var(value.List(&f.set, "KEY=VALUE", value.ParseSetting), "set", "set a parameter of the template's rules; repeatable")
	fs.Var(value.One(&f.storage, "shared|private", value.Word(sharedStorage, privateStorage)), "storage", "share the template's files, or copy them (default shared)")
	fs.Var(value.One(&f.pool, "use|only|never", value.Word(usePool, onlyPool, neverPool)), "pool", "take clones that stand ready, only those, or none (default use)")
	f.policy.add(cmd)
	fs.BoolVar(&f.keepGoing, "keep-going", false, "one that can't be made does not undo the others")
	fs.SortFlags = false

	completeFlag(cmd, "storage", cobra.FixedCompletions([]string{string(sharedStorage), string(privateStorage)}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "pool", cobra.FixedCompletions([]string{string(usePool), string(onlyPool), string(neverPool)}, cobra.ShellCompDirectiveNoFileComp))
	completeFlag(cmd, "set", s.parameterKeys)
	for _, name := range []string{"count", "name-pattern", "start", "name", "endpoint"} {
		completeFlag(cmd, name, cobra.NoFileCompletions)
	}
}

// request makes the API's message of the flags.
func (f *cloneFlags) request(name string) (*api.CloneRequest, error) {
	switch {
	case len(f.names) > 0 && (f.pattern != "" || f.start > 0):
		return nil, usagef("--name goes without --name-pattern and --start")
	case len(f.names) > 0 && f.count > 0 && int64(len(f.names)) != f.count:
		return nil, usagef("--count %d, but there are %d names", f.count, len(f.names))
	}
	count := max(f.count, int64(len(f.names)))
	if count == 0 {
		count = max(1, int64(len(f.endpoints)))
	}
	if n := int64(len(f.endpoints)); n > 0 && n != count {
		return nil, usagef("%d of --endpoint, but --count %d: want one for each clone, or none", n, count)
	}
	req := &api.CloneRequest{
		Template: name, Count: int32(count), NamePattern: f.pattern, Start: int32(f.start), Names: f.names,
		Storage: storages[f.storage], Pool: poolUses[f.pool], KeepGoing: f.keepGoing,
	}
	req.RestoreMemory, req.AcceptChangedFiles = f.policy.memory.message(), f.policy.files.message()
	var err error
	if req.Wake, req.HibernateAfter, err = f.policy.messages(); err != nil {
		return nil, err
	}
	if f.pattern != "" {
		p, err := template.ParseNamePattern(f.pattern)
		if err == nil {
			_, err = p.Expand(max(1, int(f.start)), int(count), nil)
		}
		if err != nil {
			return nil, usagef("--name-pattern: %v", err)
		}
	}
	for _, a := range f.endpoints {
		req.Endpoints = append(req.Endpoints, a.String())
	}
	for _, one := range f.set {
		if _, twice := req.Set[one.Key]; twice {
			return nil, usagef("--set %s twice", one.Key)
		}
		if req.Set == nil {
			req.Set = make(map[string]string)
		}
		req.Set[one.Key] = one.Value
	}
	return req, nil
}

// clone makes the clones and prints each when it is done.
func (s *session) clone(ctx context.Context, c *client.Client, req *api.CloneRequest) error {
	ctx, cancel := s.limit(ctx, grace)
	defer cancel()
	line := s.progress(req.GetTemplate())
	var results []output.Result
	var failed []output.Failure
	var errs failures
	var printed error
	summary, err := c.Clone(ctx, req, client.CloneWatch{
		Progress: func(p *api.CloneProgress) { line.tell(&api.Progress{Step: output.CloneStep(p)}) },
		Result: func(r *api.CloneResult) {
			if err := client.CloneError(r); err != nil {
				err = &cloneError{r.GetName(), named(r.GetName(), err)}
				errs = append(errs, err)
				failed = append(failed, output.NewFailure(r.GetName(), int(codeOf(err)), err))
				return
			}
			made := output.NewClone(r)
			results = append(results, made)
			if s.format == output.AsTable && req.GetKeepGoing() && printed == nil { // else it may yet be undone
				line.clear()
				s.note(&made)
				printed = s.print(output.NewResults(results[len(results)-1:], nil))
			}
		},
	})
	line.clear()
	if err != nil {
		if req.GetKeepGoing() {
			errs = append(errs, &adviceError{err: err, hints: keptHints(err)})
		} else {
			results = nil
			errs = undone(req.GetCount(), errs, err)
		}
		if len(failed) == 0 {
			failed = append(failed, output.NewFailure(req.GetTemplate(), int(codeOf(err)), err))
		}
	} else if len(errs) > 0 && len(results) > 0 {
		errs = append(failures{&exitError{Partly, fmt.Sprintf("%d of %d clones of %s could not be made", len(errs), len(errs)+len(results), req.GetTemplate())}}, errs...)
	}
	errs = together(errs)
	for i := range results {
		if !results[i].Complete {
			errs = append(errs, partly(&results[i]))
		}
	}
	if s.format == output.AsTable && !req.GetKeepGoing() && printed == nil {
		for i := range results {
			s.note(&results[i])
		}
		printed = s.print(output.NewResults(results, nil))
	}
	if printed == nil {
		printed = s.print(output.NewClones(req.GetTemplate(), time.Duration(summary.GetTotalUs())*time.Microsecond, results, failed))
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

// cloneError is why there is no clone of a name.
type cloneError struct {
	name string
	err  error
}

func (e *cloneError) Error() string { return e.err.Error() }
func (e *cloneError) Unwrap() error { return e.err }

// reason is the error without the name that it begins with.
func (e *cloneError) reason() string {
	text := strings.TrimPrefix(e.Error(), "clone ")
	return strings.TrimPrefix(text, e.name+": ")
}

// sameError is an error of several clones.
type sameError struct {
	names []string
	first *cloneError
}

func (e *sameError) Unwrap() error { return e.first }

func (e *sameError) Error() string {
	const most = 5
	names := strings.Join(e.names, ", ")
	if len(e.names) > most+1 {
		names = fmt.Sprintf("%s and %d others", strings.Join(e.names[:most], ", "), len(e.names)-most)
	}
	return names + ": " + e.first.reason()
}

// together makes one error of those that clones have for the same reason.
func together(errs failures) failures {
	var all failures
	same := make(map[string]*sameError)
	for _, err := range errs {
		one, ok := err.(*cloneError) //nolint:errorlint // not one with advice
		if !ok {
			all = append(all, err)
			continue
		}
		if s := same[one.reason()]; s != nil {
			s.names = append(s.names, one.name)
			continue
		}
		s := &sameError{names: []string{one.name}, first: one}
		same[one.reason()] = s
		all = append(all, s)
	}
	for i, err := range all {
		if s, ok := err.(*sameError); ok && len(s.names) == 1 { //nolint:errorlint // made above
			all[i] = s.first
		}
	}
	return all
}

// undone adds the error with which the clones were undone to those of the
// clones, unless it is one of them.
func undone(total int32, errs failures, err error) failures {
	for i, e := range errs {
		if strings.HasSuffix(e.Error(), err.Error()) {
			if total > 1 {
				errs[i] = &adviceError{err: e, hints: []string{"all clones were undone: with --keep-going those stay that can be made"}}
			}
			return errs
		}
	}
	return append(errs, err)
}

// keptHints are for a request to keep going whose end is not known: the answer is not
// to be waited for.
func keptHints(err error) []string {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errdefs.IsUnavailable(err) {
		return []string{"clones that were ready stay, also those that are not listed here: `snapctl ps`"}
	}
	return nil
}

func templateNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	templates, err := c.ListTemplates(ctx)
	if err != nil {
		return nil, err
	}
	var all []cobra.Completion
	for _, t := range templates {
		all = append(all, cobra.CompletionWithDesc(t.GetName(), output.Clean("of "+t.GetSnapshot()+", "+output.Size(t.GetMemoryBytes()))))
	}
	return all, nil
}

// parameterKeys completes KEY= with the parameters of the template that was
// named before.
func (s *session) parameterKeys(cmd *cobra.Command, args []string, begun string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) != 1 || strings.Contains(begun, "=") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	keys := s.ask(0, func(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
		t, err := c.ShowTemplate(ctx, args[0])
		if err != nil {
			return nil, err
		}
		var all []cobra.Completion
		for _, p := range t.GetParameters() {
			all = append(all, cobra.CompletionWithDesc(p.GetKey()+"=", output.Clean(p.GetDescription())))
		}
		return all, nil
	})
	all, _ := keys(cmd, nil, begun)
	return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}
