package cli

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// execFlags are the flags of exec.
type execFlags struct {
	interactive, tty bool
	process          processFlags
}

func newExec(s *session) *cobra.Command {
	var f execFlags
	cmd := &cobra.Command{
		Use:   "exec [-i] [-t] [flags] APP -- PROGRAM [ARG...]",
		Short: "Run a command in an app",
		Long: `Run a command in a running app, beside its own processes, and wait for it. Its exit
code becomes that of snapctl. As long as it runs the app can't be hibernated.`,
		Example: `  snapctl exec cache -- redis-cli info memory
  snapctl exec -it cache -- sh
  echo 'set a 1' | snapctl exec -i cache -- redis-cli`,
		Args: func(cmd *cobra.Command, args []string) error {
			switch len(args) {
			case 0:
				return usagef("%s needs APP and PROGRAM", cmd.CommandPath())
			case 1:
				return usagef("%s %s needs PROGRAM", cmd.CommandPath(), args[0])
			}
			return nil
		},
		ValidArgsFunction: s.completeExec,
		Annotations:       map[string]string{programKey: "true", rawKey: "true"},
		RunE: s.call(func(ctx context.Context, c *client.Client, args []string) error {
			return f.exec(ctx, s, c, args)
		}),
	}
	cmd.Flags().BoolVarP(&f.interactive, "interactive", "i", false, "pass on standard input")
	cmd.Flags().BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	f.process.add(cmd.Flags())
	cmd.Flags().SortFlags = false
	return cmd
}

func (s *session) completeExec(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return s.ask(1, appNames(api.Status_STATUS_RUNNING))(cmd, args, text)
	}
	return nil, cobra.ShellCompDirectiveDefault
}

func (f *execFlags) exec(ctx context.Context, s *session, c *client.Client, args []string) (err error) {
	env, err := f.process.environment(s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := client.Exec{
		Start:  &api.ExecStart{Name: args[0], Args: args[1:], Env: env, Workdir: f.process.workdir, User: f.process.user, Tty: f.tty},
		Stdout: s.world.Out, Stderr: s.world.Err,
	}
	if f.tty {
		restore, err := f.terminal(ctx, s, &x)
		if err != nil {
			return err
		}
		defer func() {
			cancel()
			for range x.Resize { // until its goroutine has ended
			}
			if rerr := restore(); err == nil {
				err = rerr
			}
		}()
	}
	if f.interactive {
		if x.Stdin, err = openInput(s.world.In); err != nil {
			return err
		}
	}
	code, err := c.Exec(ctx, x)
	if err != nil {
		return err
	}
	if code != 0 {
		return &exitError{code: ExitCode(code)}
	}
	return nil
}

// terminal prepares the user's terminal for the command's. The channel that it
// sets is closed when ctx ends.
func (f *execFlags) terminal(ctx context.Context, s *session, x *client.Exec) (restore func() error, err error) {
	t := s.world.Terminal
	restore = func() error { return nil }
	if f.interactive {
		if !t.Is(s.world.In) {
			return nil, &usageError{text: "-t with -i: standard input is no terminal", hints: []string{"leave out -t"}}
		}
		if restore, err = t.Raw(s.world.In); err != nil {
			return nil, err
		}
	}
	if term, ok := s.world.Env("TERM"); ok {
		x.Start.Env = append([]string{"TERM=" + term}, x.Start.Env...)
	}
	if !t.Is(s.world.Out) {
		none := make(chan client.Size)
		close(none)
		x.Resize = none
		return restore, nil
	}
	size, err := t.Size(s.world.Out)
	if err != nil {
		return nil, errors.Join(err, restore())
	}
	x.Start.Rows, x.Start.Columns = size.Rows, size.Columns
	x.Resize = t.Resized(ctx, s.world.Out)
	return restore, nil
}
