package directory

import "fmt"

// The functions below decide what becomes of an endpoint's record. They look at the record as it
// is now, nil for none, and return what it is to be. If it is that already, done is true: the
// change has happened, perhaps when it was tried before. The model of the protocol
// (model_test.go) uses the same functions.

// decideClaim makes a new endpoint.
func decideClaim(now *Endpoint, want Endpoint) (next Endpoint, done bool, err error) {
	switch {
	case now == nil:
		return want, false, nil
	case now.is(want):
		return *now, true, nil
	}
	return want, false, &TakenError{There: *now}
}

// decideReclaim makes an endpoint its owner's again, of which a restored directory knows less than the
// owner: nothing, or an earlier epoch. Another host's claim, and a later epoch, stay.
func decideReclaim(now *Endpoint, mine Endpoint) (next Endpoint, done bool, err error) {
	next = mine
	next.Epoch++
	switch {
	case now == nil:
		return next, false, nil
	case now.is(next), now.is(mine):
		return *now, true, nil
	case now.ID != mine.ID || now.Epoch >= mine.Epoch:
		return mine, false, &TakenError{There: *now}
	}
	next.Revision = 0
	return next, false, nil
}

// is tells whether the record names the owner and epoch of mine, in the same life.
func (e *Endpoint) is(mine Endpoint) bool {
	return e != nil && e.ID == mine.ID && e.Owner == mine.Owner && e.Epoch == mine.Epoch
}

// decideUpdate changes what the owner's endpoint is: target is for a state of Moving only.
func decideUpdate(now *Endpoint, mine Endpoint, state State, target string) (next Endpoint, done bool, err error) {
	if !now.is(mine) {
		return mine, false, &OwnerError{Mine: mine, Now: now}
	}
	next = *now
	next.State, next.Target = state, target
	if state == Moving && target == now.Owner {
		return next, false, &StateError{Now: *now, Want: "move it to the host that it is on"}
	}
	return next, next == *now, nil
}

// decideTransfer gives the endpoint, which is moving to another host, to that host.
func decideTransfer(now *Endpoint, mine Endpoint, to string) (next Endpoint, done bool, err error) {
	next = mine
	next.Owner, next.Epoch, next.State, next.Target, next.TakenFrom = to, mine.Epoch+1, Held, "", ""
	switch {
	case now != nil && now.ID == mine.ID && now.Owner == to && now.Epoch == next.Epoch && now.TakenFrom == "":
		return *now, true, nil // it may have changed its state since
	case !now.is(mine):
		return mine, false, &OwnerError{Mine: mine, Now: now}
	case now.State != Moving || now.Target != to:
		return mine, false, &StateError{Now: *now, Want: fmt.Sprintf("give it to host %s", to)}
	}
	next.Revision = now.Revision
	return next, false, nil
}

// decideRelease ends an endpoint.
func decideRelease(now *Endpoint, mine Endpoint) (done bool, err error) {
	switch {
	case now == nil || now.ID != mine.ID:
		return true, nil
	case !now.is(mine):
		return false, &OwnerError{Mine: mine, Now: now}
	}
	return false, nil
}

// decideTakeover takes the endpoint from a dead host: there is what the taker has seen of it.
func decideTakeover(now *Endpoint, there Endpoint, by string) (next Endpoint, done bool, err error) {
	next = there
	next.Owner, next.Epoch, next.State, next.Target, next.TakenFrom = by, there.Epoch+1, Held, "", there.Owner
	switch {
	case now != nil && now.ID == there.ID && now.Owner == by && now.Epoch == next.Epoch && now.TakenFrom == there.Owner:
		return *now, true, nil
	case !now.is(there):
		return there, false, &OwnerError{Mine: there, Now: now}
	}
	next.Revision = now.Revision
	return next, false, nil
}

// Standing is what the directory says of a host's copy of an endpoint.
type Standing int

// The standings of a copy. Only an Owner's copy may send.
const (
	// Lost is a copy that was moved away, taken over, or released: it stays stopped, and what
	// there is of it is kept for the operator.
	Lost Standing = iota
	// Pending is a copy with a higher epoch than the record: the change that makes it the owner's
	// has not happened. For a host that was the owner already it means that the directory is
	// older than the copy.
	Pending
	// Owner is the owner's copy.
	Owner
)

func (s Standing) String() string {
	switch s {
	case Owner:
		return "owner"
	case Pending:
		return "pending"
	case Lost:
	}
	return "lost"
}

// judge returns the standing of a copy: mine has the host and the epoch that it is for.
func judge(now *Endpoint, mine Endpoint) Standing {
	switch {
	case now.is(mine):
		return Owner
	case now != nil && now.ID == mine.ID && now.Epoch < mine.Epoch:
		return Pending
	}
	return Lost
}

// Permit is the right to let packets of a copy out. The zero Permit is none.
type Permit struct {
	ID    string `json:"id"`
	Epoch uint64 `json:"epoch"`
	Boot  string `json:"boot"`
}

// Allows tells whether a copy of an endpoint with this epoch may send, on a host that runs since
// this boot without a break: boot is /proc/sys/kernel/random/boot_id, or an identity that ends
// with whatever else ends all copies of the host at once.
//
// What was permitted stays so while the directory can't be reached. A copy whose standing is
// seen not to be Owner any more loses its permit at once: that is the caller's part.
func (p Permit) Allows(id string, epoch uint64, boot string) bool {
	return p.Boot != "" && p == Permit{ID: id, Epoch: epoch, Boot: boot}
}
