// Package membership is how hosts come together: one makes an installation ([InitRequest]), invites
// others ([Invitation]), and they join ([JoinRequest]). It is what `snapctl host` does:
//
//	Init(ctx, InitRequest) (*Host, error)
//	Invite(ctx, ttl time.Duration) (*Invitation, error)
//	Join(ctx, JoinRequest) (*Host, error)
//	List(ctx) ([]Host, error)
//	Remove(ctx, name string, force bool) error
//
// One host alone is in no installation: List is empty, no port is open, no directory is asked.
package membership
