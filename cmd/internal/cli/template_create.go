package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

func newTemplateCreate(s *session) *cobra.Command {
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
		Args:              exactly("NAME"),
		ValidArgsFunction: cobra.NoFileCompletions,
		Annotations:       map[string]string{takenKey: "choose another NAME, or remove the template that has it"},
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if from == "" {
			return usagef("%s needs --from APP or SNAPSHOT", cmd.CommandPath())
		}
		text, err := s.rules(cmd.Flags().Changed("rules"), rules)
		if err != nil {
			return err
		}
		return s.operate(output.CreateTemplate, func(ctx context.Context, c *client.Client, name string, tell client.Progress) (*api.Result, error) {
			req := &api.CreateTemplateRequest{Name: name, RulesYaml: text, Timeout: s.patience()}
			if err := source(ctx, c, from, req); err != nil {
				return nil, err
			}
			return c.CreateTemplate(ctx, req, tell)
		})(cmd, args)
	}
	cmd.Flags().StringVar(&from, "from", "", "`APP|SNAPSHOT` to make it of")
	cmd.Flags().StringVar(&rules, "rules", "", "`FILE` that says what differs between clones; - is standard input")
	completeFlag(cmd, "from", s.ask(0, sourceNames))
	completeFlag(cmd, "rules", cobra.FixedCompletions([]string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt))
	return cmd
}

// rules reads and checks a file of rules, if one was given.
func (s *session) rules(given bool, file string) (string, error) {
	if !given {
		return "", nil
	}
	text, problems, err := s.readRules(file)
	if err != nil {
		return "", err
	}
	if len(problems) > 0 {
		e := &usageError{hints: []string{"`snapctl template validate --schema` says what rules may have"}}
		lines := make([]string, len(problems))
		for i, p := range problems {
			lines[i] = ruleError(file, p)
		}
		e.text = strings.Join(lines, "\n")
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
		return &usageError{
			text:  fmt.Sprintf("--from %s: there is an app and a snapshot of this name", from),
			hints: []string{fmt.Sprintf("say which: --from app:%s or --from snapshot:%s", from, from)},
		}
	case isApp:
		req.App = from
	case isSnapshot:
		req.Snapshot = from
	default:
		return &adviceError{
			err:   &exitError{NotFound, fmt.Sprintf("--from %s: there is no app and no snapshot of this name", from)},
			hints: []string{"`snapctl ps` and `snapctl snapshots` list what there is"},
		}
	}
	return nil
}

// sourceNames lists what templates can be made of. What is an app as well as a
// snapshot is listed as both.
func sourceNames(ctx context.Context, c *client.Client) ([]cobra.Completion, error) {
	apps, err := appNames(api.Status_STATUS_RUNNING)(ctx, c)
	if err != nil {
		return nil, err
	}
	snapshots, err := snapshotNames(ctx, c)
	if err != nil {
		return nil, err
	}
	has := func(all []cobra.Completion, one cobra.Completion) bool {
		return slices.ContainsFunc(all, func(other cobra.Completion) bool { return nameOf(other) == nameOf(one) })
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
