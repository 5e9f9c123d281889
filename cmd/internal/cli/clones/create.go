package clones

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newTemplateCreate(s *session.Session) *cobra.Command {
	var from, rules string
	cmd := &cobra.Command{
		Use:   "create NAME --from APP|SNAPSHOT [flags]",
		Short: "Make a template of an app or a snapshot",
		Long: `Make a template. An app is saved for it and goes on; a snapshot is kept as long as
the template is. If an app and a snapshot have the same name, say which of them
with app:NAME or snapshot:NAME.

--rules names a YAML file that says what differs between clones; without it only
name, address and machine id do. See snapctl template validate.`,
		Example: `  snapctl template create web --from web-1
  snapctl template create web --from app:web --rules web.yaml`,
		Args:              session.Exactly("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		Annotations:       map[string]string{session.TakenKey: "choose another NAME, or remove the template that has it"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if from == "" {
			return session.Usagef("%s needs --from APP or SNAPSHOT", cmd.CommandPath())
		}
		text, err := checkedRules(s, cmd.Flags().Changed("rules"), rules)
		if err != nil {
			return err
		}
		return s.Operate(output.CreateTemplate, func(ctx context.Context, c *client.Client, name string, tell client.Progress) (*api.Result, error) {
			req := &api.CreateTemplateRequest{Name: name, RulesYaml: text, Timeout: s.Patience()}
			if err := source(ctx, c, from, req); err != nil {
				return nil, err
			}
			return c.CreateTemplate(ctx, req, tell)
		})(cmd, args)
	}
	cmd.Flags().StringVar(&from, "from", "", "`APP|SNAPSHOT` to make it of")
	cmd.Flags().StringVar(&rules, "rules", "", "`FILE` that says what differs between clones; - is standard input")
	session.CompleteFlag(cmd, "from", s.Ask(0, sourceNames))
	session.CompleteFlag(cmd, "rules", cobra.FixedCompletions([]string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt))
	return cmd
}

// checkedRules reads and checks a file of rules, if one was given.
func checkedRules(s *session.Session, given bool, file string) (string, error) {
	if !given {
		return "", nil
	}
	text, problems, err := readRules(s, file)
	if err != nil {
		return "", err
	}
	if len(problems) > 0 {
		e := &session.UsageError{Advice: []string{"`snapctl template validate --schema` says what rules may have"}}
		lines := make([]string, len(problems))
		for i, p := range problems {
			lines[i] = ruleError(file, p)
		}
		e.Text = strings.Join(lines, "\n")
		return "", e
	}
	return string(text), nil
}

// source finds out what a template is to be made of.
func source(ctx context.Context, c *client.Client, from string, req *api.CreateTemplateRequest) error {
	if name, ok := strings.CutPrefix(from, "app:"); ok {
		req.App = name
		return nil
	}
	if name, ok := strings.CutPrefix(from, "snapshot:"); ok {
		req.Snapshot = name
		return nil
	}
	apps, err := c.List(ctx)
	if err != nil {
		return err
	}
	snapshots, err := c.ListSnapshots(ctx)
	if err != nil {
		return err
	}
	isApp := slices.ContainsFunc(apps, func(a *api.App) bool { return a.GetName() == from })
	isSnapshot := slices.ContainsFunc(snapshots, func(snap *api.Snapshot) bool { return snap.GetName() == from })
	switch {
	case isApp && isSnapshot:
		return &session.UsageError{
			Text:   fmt.Sprintf("--from %s: there is an app and a snapshot of this name", from),
			Advice: []string{fmt.Sprintf("say which: --from app:%s or --from snapshot:%s", from, from)},
		}
	case isApp:
		req.App = from
	case isSnapshot:
		req.Snapshot = from
	default:
		return &session.AdviceError{
			Err:    &session.ExitError{Code: session.NotFound, Text: fmt.Sprintf("--from %s: there is no app and no snapshot of this name", from)},
			Advice: []string{"`snapctl ps` and `snapctl snapshots` list what there is"},
		}
	}
	return nil
}

// sourceNames lists what templates can be made of. What is an app as well as a
// snapshot is listed as both.
func sourceNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	apps, err := session.AppNames(api.Status_STATUS_RUNNING)(ctx, c)
	if err != nil {
		return nil, err
	}
	snapshots, err := session.SnapshotNames(ctx, c)
	if err != nil {
		return nil, err
	}
	has := func(all []cobra.Completion, one cobra.Completion) bool {
		return slices.ContainsFunc(all, func(other cobra.Completion) bool { return session.NameOf(other) == session.NameOf(one) })
	}
	var all []cobra.Completion
	for _, a := range apps {
		if has(snapshots, a) {
			a = "app:" + a
		}
		all = append(all, a)
	}
	for _, snap := range snapshots {
		if has(apps, snap) {
			snap = "snapshot:" + snap
		}
		all = append(all, snap)
	}
	return all, nil
}
