// Package membership is how hosts come together: one makes an installation ([InitRequest]), invites
// others ([Invitation]), and they join ([JoinRequest]). It is what `snapctl host` does:
//
//	Init(ctx, InitRequest) (*Host, error)
//	Invite(ctx, ttl time.Duration) (*Invitation, error)
//	Join(ctx, JoinRequest) (*Host, error)
//	List(ctx) ([]Host, error)
//	Remove(ctx, name string, force bool) error
//
// [Membership] does all of it, over packages trust and directory. How a host that joins reaches
// another one, and how a directory is started, are handed in ([Gate], [Directories]).
//
// Whatever fails, or is killed, on the way into an installation leaves the host in none, and is
// taken up when the same is done again: keys, certificate and directory that are there are used.
// The last step writes the record by which the next daemon knows that the host is a member.
//
// One host alone is in no installation: List is empty, no port is open, no directory is asked.
package membership
