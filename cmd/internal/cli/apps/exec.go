package apps

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// execFlags are the flags of exec.
type execFlags struct {
	interactive, tty bool
	process          processFlags
}

// NewExec makes the command `snapctl exec`.
func NewExec(s *session.Session) *cobra.Command {
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
				return session.Usagef("%s needs APP and PROGRAM", cmd.CommandPath())
			case 1:
				return session.Usagef("%s %s needs PROGRAM", cmd.CommandPath(), args[0])
			}
			return nil
		},
		ValidArgsFunction: completeExec(s),
		Annotations:       map[string]string{session.ProgramKey: "true", session.RawKey: "true"},
		RunE: s.Call(func(ctx context.Context, c *client.Client, args []string) error {
			return f.exec(ctx, s, c, args)
		}),
	}
	cmd.Flags().BoolVarP(&f.interactive, "interactive", "i", false, "pass on standard input")
	cmd.Flags().BoolVarP(&f.tty, "tty", "t", false, "give the command a terminal")
	f.process.add(cmd.Flags())
	cmd.Flags().SortFlags = false
	return cmd
}

// completeExec completes the app; the command to run in it is the shell's to complete.
func completeExec(s *session.Session) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, text string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return s.Ask(1, session.AppNames(api.Status_STATUS_RUNNING))(cmd, args, text)
		}
		return nil, cobra.ShellCompDirectiveDefault
	}
}

func (f *execFlags) exec(ctx context.Context, s *session.Session, c *client.Client, args []string) (err error) {
	env, err := f.process.environment(s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	x := client.Exec{
		Start:  &api.ExecStart{Name: args[0], Args: args[1:], Env: env, Workdir: f.process.workdir, User: f.process.user, Tty: f.tty},
		Stdout: s.World.Out, Stderr: s.World.Err,
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
		if x.Stdin, err = openInput(s.World.In); err != nil {
			return err
		}
	}
	code, err := c.Exec(ctx, x)
	if err != nil {
		return err
	}
	if code != 0 {
		return &session.ExitError{Code: session.ExitCode(code)}
	}
	return nil
}

// terminal prepares the user's terminal for the command's. The channel that it
// sets is closed when ctx ends.
func (f *execFlags) terminal(ctx context.Context, s *session.Session, x *client.Exec) (restore func() error, err error) {
	t := s.World.Terminal
	restore = func() error { return nil }
	if f.interactive {
		if !t.Is(s.World.In) {
			return nil, &session.UsageError{Text: "-t with -i: standard input is no terminal", Advice: []string{"leave out -t"}}
		}
		if restore, err = t.Raw(s.World.In); err != nil {
			return nil, err
		}
	}
	if term, ok := s.World.Env("TERM"); ok {
		x.Start.Env = append([]string{"TERM=" + term}, x.Start.Env...)
	}
	if !t.Is(s.World.Out) {
		none := make(chan client.Size)
		close(none)
		x.Resize = none
		return restore, nil
	}
	size, err := t.Size(s.World.Out)
	if err != nil {
		return nil, errors.Join(err, restore())
	}
	x.Start.Rows, x.Start.Columns = size.Rows, size.Columns
	x.Resize = t.Resized(ctx, s.World.Out)
	return restore, nil
}
