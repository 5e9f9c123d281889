package session

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// Connect dials the daemon. The caller closes the client.
func (s *Session) Connect(ctx context.Context) (*client.Client, error) {
	return s.World.Dial(ctx, s.Address())
}

// Address is where the daemon listens.
func (s *Session) Address() string {
	if s.Socket != "" {
		return s.Socket
	}
	if fromEnv, ok := s.World.Env(SocketVariable); ok && fromEnv != "" {
		return fromEnv
	}
	return client.DefaultSocket
}

// Request is what a command asks the daemon.
type Request func(ctx context.Context, c *client.Client, args []string) error

// Call makes a command of a request. The timeout covers all of it.
func (s *Session) Call(do Request) func(*cobra.Command, []string) error {
	return s.Dialled(func(ctx context.Context, c *client.Client, args []string) error {
		ctx, cancel := s.Limit(ctx, 0)
		defer cancel()
		return do(ctx, c, args)
	})
}

// Dialled makes a command of a request that sees to its timeouts itself.
func (s *Session) Dialled(do Request) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) (err error) {
		c, err := s.Connect(cmd.Context())
		if err != nil {
			return err
		}
		defer func() {
			// A failure to close changes nothing about what the daemon did.
			_ = c.Close()
		}()
		return do(cmd.Context(), c, args)
	}
}

// Limit applies --timeout, and slack on top of it.
func (s *Session) Limit(ctx context.Context, slack time.Duration) (context.Context, context.CancelFunc) {
	if s.Timeout == 0 {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, s.Timeout+slack)
}

// Print writes a result.
func (s *Session) Print(doc output.Document) error {
	return output.Write(s.World.Out, s.Format, s.World.Now(), doc)
}

// Grace is how much longer than the timeout it tells the daemon snapctl waits:
// the daemon undoes what it has begun, and its error says more.
const Grace = 10 * time.Second

// Operation does something to one app or snapshot.
type Operation func(ctx context.Context, c *client.Client, name string, tell client.Progress) (*api.Result, error)

// Operate does the same to each of names, one after the other, and prints what
// it did. One that fails does not keep it from the others.
func (s *Session) Operate(op output.Operation, do Operation) func(*cobra.Command, []string) error {
	return s.Dialled(func(ctx context.Context, c *client.Client, names []string) error {
		var results []output.Result
		var failed []output.Failure
		var errs JoinedErrors
		for _, name := range names {
			r, err := s.operateOn(ctx, c, name, op, do)
			if err != nil {
				if len(names) > 1 {
					err = Named(name, err)
				}
				errs = append(errs, err)
				failed = append(failed, output.NewFailure(name, int(CodeOf(err)), err))
				if ctx.Err() != nil {
					break
				}
				continue
			}
			results = append(results, *r)
			s.Note(r)
			if !r.Complete {
				errs = append(errs, NotAll(r))
			}
			if s.Format == output.AsTable { // each as soon as it is done
				if err := s.Print(output.NewResults([]output.Result{*r}, nil)); err != nil {
					return err
				}
			}
		}
		if s.Format != output.AsTable {
			if err := s.Print(output.NewResults(results, failed)); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if len(errs) > 0 {
			return errs
		}
		return nil
	})
}

// NotAll is an operation that was done, but not to all of the app's sockets.
func NotAll(r *output.Result) error {
	if r.Operation == output.Hibernate {
		return &ExitError{Code: Partly, Text: fmt.Sprintf("%s is hibernated, but not all of its sockets are held", r.AppName())}
	}
	return &ExitError{Code: Partly, Text: fmt.Sprintf("%s runs, but not all of its sockets came back", r.AppName())}
}

// Note says on standard error what of the app is not as it was. JSON has it, too.
func (s *Session) Note(r *output.Result) {
	if s.Format != output.AsTable {
		return
	}
	for _, n := range r.Notes {
		if text := n.String(); !slices.Contains(s.said, text) { // a crowd of clones shares them
			s.Say("note", text)
			s.said = append(s.said, text)
		}
	}
}

func (s *Session) operateOn(ctx context.Context, c *client.Client, name string, op output.Operation, do Operation) (*output.Result, error) {
	ctx, cancel := s.Limit(ctx, Grace)
	defer cancel()
	line := s.Progress(name)
	defer line.Clear()
	r, err := do(ctx, c, name, line.Tell)
	if err != nil {
		return nil, err
	}
	res := output.NewResult(op, name, r)
	return &res, nil
}

// Named says which app or snapshot an error is about, if it does not itself.
func Named(name string, err error) error {
	var answer *client.Error
	if errors.As(err, &answer) && mentions(answer.Message, name) {
		return err
	}
	return fmt.Errorf("%s: %w", name, err)
}

// Patience is the timeout as the API wants it.
func (s *Session) Patience() *durationpb.Duration {
	if s.Timeout == 0 {
		return nil
	}
	return durationpb.New(s.Timeout)
}
