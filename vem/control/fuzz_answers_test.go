package control

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/snapctl/snapctl/vem/control/controlpb"
	"github.com/snapctl/snapctl/vem/control/message"
)

// FuzzAnswers has a host answer what it wants: callers are given nothing that is not valid.
func FuzzAnswers(f *testing.F) {
	for _, m := range []proto.Message{
		&pb.HelloAnswer{Protocol: 1, Protocols: &pb.Protocols{Min: 1, Max: 2}, Host: "b"},
		&pb.ResolveAnswer{Owner: "b", Epoch: 1, State: pb.EndpointState_ENDPOINT_STATE_HELD},
		&pb.Channel{Module: "tunnel"},
		message.ToCounters([]message.Counters{{Network: "default", Module: "tunnel", UpFor: time.Hour}}),
		&pb.CountersAnswer{Channels: []*pb.ChannelCounters{{UpFor: &durationpb.Duration{Seconds: -1}}}},
		&pb.JoinAnswer{Chain: []byte("c"), Directory: []string{"https://[::1"}},
		&pb.Failure{By: "b", What: &pb.Failure_NotOwner_{NotOwner: &pb.Failure_NotOwner{Network: "n", Address: []byte{10, 0, 0, 1}}}},
	} {
		f.Add(joined(f, m)[2:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s := strict{t}
		var (
			hello    pb.HelloAnswer
			owner    pb.ResolveAnswer
			channel  pb.Channel
			counters pb.CountersAnswer
			join     pb.JoinAnswer
		)
		if proto.Unmarshal(b, &hello) == nil {
			if g, _, err := message.FromHelloAnswer(&hello); err == nil {
				s.check(g.Protocol >= g.Protocols.Min && g.Protocol <= g.Protocols.Max && g.Protocols.Min > 0, "greeting", g)
			}
		}
		if proto.Unmarshal(b, &owner) == nil {
			if o, err := message.FromOwner(&owner); err == nil {
				s.check(o.Host != "" && o.Epoch > 0 && o.State >= 1 && o.State <= 3, "owner", o)
			}
		}
		if proto.Unmarshal(b, &channel) == nil {
			if ch, err := message.FromChannel(&channel); err == nil {
				s.name(ch.Module)
				s.address(ch.Local.Addr())
				s.address(ch.Remote.Addr())
			}
		}
		if proto.Unmarshal(b, &counters) == nil {
			if all, err := message.FromCounters(&counters); err == nil {
				for _, n := range all {
					s.name(n.Module)
					s.check(n.UpFor >= 0 && n.IdleFor >= 0, "counters", n)
				}
			}
		}
		if proto.Unmarshal(b, &join) == nil {
			if j, err := message.FromJoined(&join); err == nil {
				s.check(len(j.Chain) > 0 && len(j.Chain) <= 32<<10 && len(j.Directory) <= 16, "joined", j)
			}
		}
	})
}
