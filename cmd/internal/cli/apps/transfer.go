package apps

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/snapctl/snapctl/cmd/internal/cli/session"
	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/cmd/internal/value"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/client"
)

// newPush makes the command that takes a snapshot to another host.
func newPush(s *session.Session) *cobra.Command {
	t := &transfer{session: s, done: "pushed", where: "to"}
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
		Annotations:       map[string]string{session.TakenKey: "choose another name for it there with --as", session.ListKey: "snapshots"},
	}
	return t.complete(cmd, "to", "the `HOST` that it is taken to", (*client.Client).PushSnapshot)
}

// newPull makes the command that gets a snapshot from another host.
func newPull(s *session.Session) *cobra.Command {
	t := &transfer{session: s, done: "pulled", where: "from"}
	cmd := &cobra.Command{
		Use:   "pull SNAPSHOT --from HOST",
		Short: "Get a snapshot from another host",
		Long: `Get a snapshot from another host of the installation, which keeps its own. What this host
has already is not sent, see push.

If it fails, or is ended by Ctrl-C, nothing is left of it on this host.`,
		Example: `  snapctl snapshots pull cache-1 --from host-b
  snapctl restore cache-1`,
		ValidArgsFunction: cobra.NoFileCompletions,
		Annotations:       map[string]string{session.TakenKey: "choose another name for it here with --as"},
	}
	return t.complete(cmd, "from", "the `HOST` that has it", (*client.Client).PullSnapshot)
}

// transfer is one of the two commands.
type transfer struct {
	session     *session.Session
	done, where string // "pushed", "to"

	host, as  string
	bandwidth int64
}

// ask asks the daemon for a transfer.
type ask func(c *client.Client, ctx context.Context, req *api.TransferRequest, tell client.TransferProgress) (*api.TransferResult, error)

// complete gives the command what both have.
func (t *transfer) complete(cmd *cobra.Command, flag, usage string, do ask) *cobra.Command {
	s := t.session
	cmd.Args = session.Exactly("SNAPSHOT")
	cmd.Flags().StringVar(&t.host, flag, "", usage)
	cmd.Flags().StringVar(&t.as, "as", "", "`NAME` of the snapshot there (default the same)")
	if flag == "from" {
		cmd.Flags().Lookup("as").Usage = "`NAME` of the snapshot here (default the same)"
	}
	cmd.Flags().Var(value.One(&t.bandwidth, "SIZE", value.ParseSize), "bandwidth", "send at most so much in a second, such as 100MiB")
	session.CompleteFlag(cmd, flag, s.Ask(0, session.HostNames))
	session.CompleteFlag(cmd, "as", cobra.NoFileCompletions)
	session.CompleteFlag(cmd, "bandwidth", cobra.NoFileCompletions)
	cmd.RunE = s.Call(func(ctx context.Context, c *client.Client, args []string) error {
		if t.host == "" {
			return session.Usagef("%s needs --%s HOST", cmd.CommandPath(), flag)
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
		doc := newTransferred(t.done, t.where, args[0], r)
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

// Transferred is what snapshots push and snapshots pull print.
type Transferred struct {
	output.Schema
	Operation string `json:"operation"` // "pushed" or "pulled"
	Snapshot  string `json:"snapshot"`  // its name where it was
	As        string `json:"as"`        // its name where it is now, too
	Host      string `json:"host"`      // the other one
	// TotalBytes is what the files have that were missing, and SentBytes what went over the network for
	// them. SavedBytes is what the files have that were there.
	TotalBytes int64    `json:"total_bytes"`
	SentBytes  int64    `json:"sent_bytes"`
	SavedBytes int64    `json:"saved_bytes"`
	Files      int32    `json:"files"` // that were sent
	TookUS     int64    `json:"took_us"`
	Notes      []string `json:"notes"`

	where string
}

// newTransferred reads the API's message.
func newTransferred(done, where, name string, r *api.TransferResult) *Transferred {
	return &Transferred{
		Schema: output.Schema{Version: output.SchemaVersion}, Operation: done, Snapshot: name, As: r.GetSnapshot(), Host: r.GetHost(),
		TotalBytes: r.GetTotal().GetTotalBytes(), SentBytes: r.GetTotal().GetSentBytes(), SavedBytes: r.GetTotal().GetSavedBytes(), Files: r.GetTotal().GetFiles(),
		TookUS: r.GetTookUs(), Notes: append([]string{}, r.GetNotes()...), where: where,
	}
}

// Table implements [output.Document].
func (d *Transferred) Table(t *output.Table) {
	text := d.Snapshot + " " + d.Operation + " " + d.where + " host " + d.Host
	if d.As != d.Snapshot {
		text += " as " + d.As
	}
	text += fmt.Sprintf(" in %s: %s sent for %s", output.Took(time.Duration(d.TookUS)*time.Microsecond), output.Size(d.SentBytes), output.Size(d.TotalBytes))
	if d.SavedBytes > 0 {
		text += fmt.Sprintf(", and %s were there already", output.Size(d.SavedBytes))
	}
	t.Line(text)
}
