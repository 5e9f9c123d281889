package moves

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// NewPush makes the command `snapctl snapshots push`.
func NewPush(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "push SNAPSHOT --to HOST",
		Short: "Take a snapshot to another host",
		Long: `Take a snapshot to another host of the installation. There it is a snapshot as any other,
and this host keeps its own. What the other host has already is not sent: the memory and
the files of an earlier snapshot or a template, and programs and libraries that it has at
the same place. Everything is compared with its digest before it is taken.

If it fails, or is ended by Ctrl-C, nothing is left of it on the other host.`,
		Example: `  snapctl snapshots push cache-1 --to host-b
  snapctl snapshots push cache-1 --to host-b --as cache-backup --bandwidth 20MiB`,
		ValidArgsFunction: s.Ask(1, session.SnapshotNames),
		Annotations:       map[string]string{session.TakenKey: thereTaken, session.ListKey: "snapshots"},
	}
	return push(s, "snapshot").complete(cmd, (*client.Client).PushSnapshot)
}

// NewPull makes the command `snapctl snapshots pull`.
func NewPull(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pull SNAPSHOT --from HOST",
		Short: "Get a snapshot from another host",
		Long: `Get a snapshot from another host of the installation, which keeps its own. What this host
has already is not sent, see push.

If it fails, or is ended by Ctrl-C, nothing is left of it on this host.`,
		Example: `  snapctl snapshots pull cache-1 --from host-b
  snapctl restore cache-1`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Annotations:       map[string]string{session.TakenKey: hereTaken},
	}
	return pull(s, "snapshot").complete(cmd, (*client.Client).PullSnapshot)
}

// NewTemplatePush makes the command `snapctl template push`. names completes its argument.
func NewTemplatePush(s *session.Session, names session.Names) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "push TEMPLATE --to HOST",
		Short: "Take a template to another host",
		Long: `Take a template to another host of the installation, with its rules and the snapshot that
it is made of, which gets the template's name there. What the other host has already is
not sent, see snapctl snapshots push. This host keeps its own template, and either host
its clones; how many are to stand ready is each host's own matter.

If it fails, or is ended by Ctrl-C, nothing is left of it on the other host.`,
		Example: `  snapctl template push web --to host-b
  snapctl template push web --to host-b --as web-2 --bandwidth 20MiB`,
		ValidArgsFunction: s.Ask(1, names),
		Annotations:       map[string]string{session.TakenKey: thereTaken, session.ListKey: "template ls"},
	}
	return push(s, "template").complete(cmd, (*client.Client).PushTemplate)
}

// NewTemplatePull makes the command `snapctl template pull`.
func NewTemplatePull(s *session.Session) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pull TEMPLATE --from HOST",
		Short: "Get a template from another host",
		Long: `Get a template from another host of the installation, which keeps its own. What this host
has already is not sent, see push.

If it fails, or is ended by Ctrl-C, nothing is left of it on this host.`,
		Example: `  snapctl template pull web --from host-b
  snapctl clone web`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Annotations:       map[string]string{session.TakenKey: hereTaken},
	}
	return pull(s, "template").complete(cmd, (*client.Client).PullTemplate)
}

// What to do about a name that is taken.
const (
	thereTaken = "choose another name for it there with --as"
	hereTaken  = "choose another name for it here with --as"
)

// transfer is one of the commands.
type transfer struct {
	session     *session.Session
	what        string // "snapshot" or "template"
	done, where string // "pushed", "to"
	flag, usage string // of the other host
	side        string // where it comes to

	host, as  string
	bandwidth int64
}

func push(s *session.Session, what string) *transfer {
	return &transfer{session: s, what: what, done: "pushed", where: "to", flag: "to", usage: "the `HOST` that it is taken to", side: "there"}
}

func pull(s *session.Session, what string) *transfer {
	return &transfer{session: s, what: what, done: "pulled", where: "from", flag: "from", usage: "the `HOST` that has it", side: "here"}
}

// ask asks the daemon for a transfer.
type ask func(c *client.Client, ctx context.Context, req *api.TransferRequest, tell client.TransferProgress) (*api.TransferResult, error)

// complete gives the command what all have.
func (t *transfer) complete(cmd *cobra.Command, do ask) *cobra.Command {
	s := t.session
	cmd.Args = session.Exactly(strings.ToUpper(t.what))
	cmd.Flags().StringVar(&t.host, t.flag, "", t.usage)
	cmd.Flags().StringVar(&t.as, "as", "", "`NAME` of the "+t.what+" "+t.side+" (default the same)")
	cmd.Flags().Var(value.One(&t.bandwidth, "SIZE", value.ParseSize), "bandwidth", "send at most so much in a second, such as 100MiB")
	session.CompleteFlag(cmd, t.flag, s.Ask(0, session.HostNames))
	session.CompleteFlag(cmd, "as", cobra.NoFileCompletions)
	session.CompleteFlag(cmd, "bandwidth", cobra.NoFileCompletions)
	cmd.RunE = s.Call(func(ctx context.Context, c *client.Client, args []string) error {
		if t.host == "" {
			return session.Usagef("%s needs --%s HOST", cmd.CommandPath(), t.flag)
		}
		line := s.Progress(args[0])
		began := s.World.Now()
		r, err := do(c, ctx, &api.TransferRequest{Snapshot: args[0], Host: t.host, As: t.as, BandwidthBytes: t.bandwidth}, func(p *api.TransferProgress) {
			line.Tell(t.step(p, s.World.Now().Sub(began)))
		})
		line.Clear()
		if err != nil {
			return err
		}
		doc := newTransferred(t, args[0], r)
		if s.Format == output.AsTable {
			for _, note := range doc.Notes {
				s.Say("note", note)
			}
		}
		return s.Print(doc)
	})
	return cmd
}

// step says how far it is.
func (t *transfer) step(p *api.TransferProgress, since time.Duration) *api.Progress {
	text := fmt.Sprintf("%s %s %s", t.done, output.Size(p.GetSentBytes()), t.where+" "+t.host)
	if since >= time.Second {
		text += fmt.Sprintf(", %s/s", output.Size(int64(float64(p.GetSentBytes())/since.Seconds())))
	}
	if p.GetSavedBytes() > 0 {
		text += fmt.Sprintf(", %s were there", output.Size(p.GetSavedBytes()))
	}
	return &api.Progress{Step: text + ":", DoneBytes: p.GetDoneBytes(), TotalBytes: p.GetTotalBytes()}
}
