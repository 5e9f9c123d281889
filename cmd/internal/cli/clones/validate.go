package clones

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/template"
)

func newTemplateValidate(s *session.Session) *cobra.Command {
	schema := false
	cmd := &cobra.Command{
		Use:   "validate FILE",
		Short: "Check a file of rules",
		Long: `Check a file of rules, without snapctld. FILE - is standard input. All that is
wrong is listed, with line and column; then the exit code is 1.

With --schema print the JSON schema of rules, which editors use to complete and
explain them.

A file of rules, all of it optional:

    hostname: "{{ .Name }}"
    machine_id: unique                  # or keep
    env: {WORKER: "{{ .Number }}"}      # for commands that are run later
    files:                              # written before the processes go on
      - path: /etc/worker.conf
        mode: 0640
        owner: worker:worker
        template: "id = {{ .Number }}"  # or content, which is not rendered
    redirect:                           # a fixed path that leads elsewhere
      - path: /var/lib/worker
        target: /srv/{{ .Name }}
    run:                                # inside, before traffic comes in
      - args: [/usr/bin/reseed, "{{ .Set.SEED }}"]
        timeout: 10s
        user: worker
    signal: HUP                         # then, to the root process
    connections: {inbound: reset, outbound: reset, internal: keep}
    publish:
      - {host_port: "{{ add 8000 .Number }}", port: 80}
    parameters:                         # for clone --set KEY=VALUE
      SEED:
        default: "{{ random 16 }}"
        pattern: "[0-9a-f]+"

Texts with {{ }} are rendered for each clone by Go's text/template: they have
.Name .Number .Count .Endpoint .Endpoint6 .Network .Template .Hostname
.Generation and .Set.KEY, and the functions random N (a secret of N bytes), uuid,
add, default, upper and lower.`,
		Example: `  snapctl template validate web.yaml
  snapctl template validate --schema`,
		Args: func(cmd *cobra.Command, args []string) error {
			if schema {
				return session.Exactly()(cmd, args)
			}
			return session.Exactly("FILE")(cmd, args)
		},
		ValidArgsFunction: cobra.FixedCompletions([]string{"yaml", "yml"}, cobra.ShellCompDirectiveFilterFileExt),
	}
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		if schema {
			if _, err := s.World.Out.Write(template.Schema()); err != nil {
				return fmt.Errorf("write output: %w", err)
			}
			return nil
		}
		_, problems, err := readRules(s, args[0])
		if err != nil {
			return err
		}
		if err := s.Print(output.NewRulesCheck(args[0], problems)); err != nil {
			return err
		}
		var errs session.JoinedErrors
		for _, p := range problems {
			errs = append(errs, &session.ExitError{Code: session.Failed, Text: ruleError(args[0], p)})
		}
		if len(errs) > 0 {
			return errs
		}
		return nil
	}
	cmd.Flags().BoolVar(&schema, "schema", false, "print the JSON schema of rules instead")
	return cmd
}

// readRules reads a file of rules and tells what is wrong with it.
func readRules(s *session.Session, file string) (text []byte, problems template.RuleErrors, err error) {
	if file == "-" {
		text, err = io.ReadAll(s.World.In)
	} else {
		path, perr := s.World.Absolute(file)
		if perr != nil {
			return nil, nil, perr
		}
		text, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read rules: %w", err)
	}
	if _, err := template.Parse(text); err != nil {
		if errors.As(err, &problems) {
			return text, problems, nil
		}
		return nil, nil, err
	}
	return text, nil, nil
}

// ruleError is what is wrong, in the form that editors jump to.
func ruleError(file string, p template.RuleError) string {
	text := p.Text
	if p.Path != "" {
		text = p.Path + ": " + text
	}
	return fmt.Sprintf("%s:%d:%d: %s", file, p.Line, p.Column, text)
}
