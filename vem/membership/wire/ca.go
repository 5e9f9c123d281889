package wire

import (
	"context"
	"errors"
	"fmt"

	"github.com/snapctl/snapctl/vem/control"
	"github.com/snapctl/snapctl/vem/control/message"
)

// CAKind is the kind of the stream by which a host gets the CA: one message, and its end.
const CAKind = "ca"

// ShareCA answers a stream of [CAKind], as [control.Handlers] has it.
func (d *Desk) ShareCA(ctx context.Context, from message.Caller, s *control.Stream) error {
	exported, err := d.Membership.ShareCA(ctx, from.Host)
	if err == nil {
		err = s.Send(exported)
	}
	if err != nil {
		return refused(err)
	}
	return nil
}

// AskCA gets the CA from one of these hosts, asked one after another. It goes over a connection by
// which both hosts have proved who they are.
func AskCA(ctx context.Context, peers *control.Peers, hosts []string) (exported []byte, err error) {
	if len(hosts) == 0 {
		return nil, errors.New("get the CA: no host that is left has it")
	}
	for _, host := range hosts {
		exported, failed := askCA(ctx, peers, host)
		if failed == nil {
			return exported, nil
		}
		err = errors.Join(err, fmt.Errorf("get the CA from host %s: %w", host, failed))
	}
	return nil, err
}

func askCA(ctx context.Context, peers *control.Peers, host string) ([]byte, error) {
	s, err := peers.Open(ctx, host, CAKind, nil)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.Recv()
}
