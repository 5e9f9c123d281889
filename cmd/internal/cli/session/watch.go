package session

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/client"
)

// Look asks the daemon for something to show.
type Look func(ctx context.Context, c *client.Client, args []string) (output.Document, error)

// Watched makes a command of something to look at, and gives it the flag --watch: then it is shown
// anew again and again, until the command is interrupted, which is no failure. A terminal has
// always the newest; elsewhere tables follow one another, and with --output json each document is
// a line. The timeout is for each request.
func (s *Session) Watched(cmd *cobra.Command, look Look) func(*cobra.Command, []string) error {
	var every time.Duration
	f := cmd.Flags()
	f.DurationVarP(&every, "watch", "w", 0, "show it anew each `INTERVAL` (2s if none is given), until it is interrupted")
	f.Lookup("watch").NoOptDefVal = "2s"
	CompleteFlag(cmd, "watch", cobra.NoFileCompletions)
	return s.Dialled(func(ctx context.Context, c *client.Client, args []string) error {
		show := func() (output.Document, error) {
			once, cancel := s.Limit(ctx, 0)
			defer cancel()
			return look(once, c, args)
		}
		if f.Changed("watch") {
			if every <= 0 {
				return Usagef("--watch %s: not an interval", every)
			}
			return s.watch(ctx, cmd.CommandPath(), every, show)
		}
		doc, err := show()
		if err != nil {
			return err
		}
		return s.Print(doc)
	})
}

func (s *Session) watch(ctx context.Context, title string, every time.Duration, show func() (output.Document, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	write := s.follow
	if s.Format == output.AsTable && s.World.Terminal.Is(s.World.Out) {
		write = func(doc output.Document, first bool) error {
			return s.draw(doc, first, fmt.Sprintf("%s, every %s", title, every))
		}
	}
	for first := true; ; first = false {
		doc, err := show()
		if ctx.Err() != nil {
			return nil // interrupted: the way to end it
		}
		if err != nil {
			return err
		}
		if err := write(doc, first); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// follow writes a document after those before it.
func (s *Session) follow(doc output.Document, first bool) error {
	if s.Format == output.AsTable && !first {
		if _, err := fmt.Fprintln(s.World.Out); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
	}
	return output.WriteLine(s.World.Out, s.Format, s.World.Now(), doc)
}

// Control sequences of terminals (ECMA-48; console_codes(4)).
const (
	home       = "\x1b[H"
	clearLine  = "\x1b[K" // from the cursor on
	clearBelow = "\x1b[J"
)

// draw writes a document over the one before it, as much of it as the terminal has room for.
func (s *Session) draw(doc output.Document, first bool, title string) error {
	now := s.World.Now()
	var text bytes.Buffer
	if err := output.Write(&text, s.Format, now, doc); err != nil {
		return err
	}
	lines := append([]string{title + ", " + now.Format(time.TimeOnly), ""}, strings.Split(strings.TrimSuffix(text.String(), "\n"), "\n")...)
	if size, err := s.World.Terminal.Size(s.World.Out); err == nil && size.Rows > 1 && size.Columns > 0 {
		lines = fit(lines, int(size.Rows)-1, int(size.Columns))
	}
	out := home + strings.Join(lines, clearLine+"\n") + clearLine + "\n" + clearBelow
	if first {
		out = home + clearBelow + out
	}
	if _, err := fmt.Fprint(s.World.Out, out); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// fit cuts lines to a number of rows and columns.
func fit(lines []string, rows, columns int) []string {
	if left := len(lines) - rows; left > 0 {
		lines = append(lines[:rows-1:rows-1], fmt.Sprintf("... and %d more lines", left+1))
	}
	for i, line := range lines {
		if r := []rune(line); len(r) > columns {
			lines[i] = string(r[:columns-1]) + "…"
		}
	}
	return lines
}
