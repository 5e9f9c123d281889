package mesh

import (
	"cmp"
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/snapctl/snapctl/vem/pause"
	"github.com/snapctl/snapctl/vem/peering"
	"github.com/snapctl/snapctl/vem/probe"
)

// verdict is what was decided about the ways to a host. The mesh's mutex guards it.
type verdict struct {
	busy   bool             // somebody decides
	again  bool             // something has changed meanwhile
	before []probe.Way      // what was known when the last channel to the host went down
	told   []netip.AddrPort // where it was said to be asked

	logged map[peering.Way]peering.Way // which ways channels were said to take, for whoever decides
}

// judgeTimeout bounds what is done at once about the ways to a host.
const judgeTimeout = 10 * time.Second

// judge has it decided which ways the channels to a host take, since something has changed: what
// there is, or what is known of it. It returns at once.
func (m *Mesh) judge(host string) {
	if v := m.begin(host); v != nil {
		m.opt.Run(func(ctx context.Context) { m.judgeUntilDone(ctx, host, v) })
	}
}

// begin notes that something has changed. It returns nil if somebody decides already, or if the
// host is not known.
func (m *Mesh) begin(host string) *verdict {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.hosts[host] == nil {
		return nil
	}
	v := m.judged[host]
	if v == nil {
		v = &verdict{}
		m.judged[host] = v
	}
	v.again = true
	if v.busy {
		return nil
	}
	v.busy = true
	return v
}

// next tells whether there is something to be decided. If not, whoever asks is done.
func (m *Mesh) next(v *verdict, ended bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	v.busy = v.again && !ended
	v.again = false
	return v.busy
}

func (m *Mesh) judgeUntilDone(ctx context.Context, host string, v *verdict) {
	said := ""
	for m.next(v, ctx.Err() != nil) {
		moved, err := m.judgeNow(ctx, host, v)
		switch {
		case err != nil && ctx.Err() == nil:
			if text := err.Error(); text != said {
				said = text
				m.opt.Log.WarnContext(ctx, "channels to a host are left as they are for now", slog.String("host", host), slog.Any("error", err))
			}
			m.mu.Lock()
			v.again = true
			m.mu.Unlock()
		case moved: // both hosts see what that does before one moves them again
		default:
			continue
		}
		pause.For(ctx, cmp.Or(m.opt.Probe.Interval, probe.DefaultInterval), nil)
	}
}

// judgeNow decides once, and tells whether a channel takes another way.
func (m *Mesh) judgeNow(ctx context.Context, host string, v *verdict) (moved bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, judgeTimeout)
	defer cancel()
	ways := m.probed(host, v)
	m.reach(host, v, ways)
	if err := m.reroute(ctx, host); err != nil {
		return false, err
	}
	if len(ways) == 0 {
		return false, nil
	}
	for i := range ways {
		if m.narrowForAny(host, ways[i]) {
			ways[i].State = probe.Down
		}
	}
	// What comes from a new address of the host is let in before a channel goes there. Where this fails, since an
	// address is gone, the channel is to take another way first.
	_ = m.peering.Resize(ctx, host)
	wants := make(map[peering.Way]peering.Way)
	for now := range m.peering.Ways(host) {
		i := probe.Choose(ways, slices.IndexFunc(ways, func(w probe.Way) bool { return wayOf(w) == now }))
		if i < 0 {
			continue
		}
		wants[now] = wayOf(ways[i])
		if v.logged[now] != wants[now] { // it is tried again until the other host agrees
			m.opt.Log.InfoContext(ctx, "the channels to a host take another way", slog.String("host", host),
				slog.String("from", now.String()), slog.String("now", wants[now].String()))
		}
	}
	v.logged = wants
	err = m.peering.Refit(ctx, host, func(now peering.Way) peering.Way { return cmp.Or(wants[now], now) })
	return len(wants) > 0, cmp.Or(err, m.peering.Resize(ctx, host))
}

// probed has the ways to a host probed if there is a channel to it, and only then, and returns
// what is known of them.
func (m *Mesh) probed(host string, v *verdict) []probe.Way {
	if len(m.peering.Ways(host)) > 0 {
		m.prober.SetWays(host, m.pairs(host))
		return m.prober.Ways(host)
	}
	last := m.prober.Ways(host)
	m.prober.SetWays(host, nil)
	if len(last) > 0 {
		m.mu.Lock()
		defer m.mu.Unlock()
		v.before = last
	}
	return nil
}

// reach says at which addresses a host is to be asked: those by which a way works come first, and
// those by which none does are left out, unless that is so of all.
func (m *Mesh) reach(host string, v *verdict, ways []probe.Way) {
	var list, all []netip.AddrPort
	m.mu.Lock()
	for _, r := range m.hosts[host] {
		all = append(all, r.Addr)
	}
	for _, w := range ways {
		i := slices.IndexFunc(all, func(at netip.AddrPort) bool { return at.Addr() == w.Remote.Addr() })
		if w.State != probe.Down && i >= 0 && !slices.Contains(list, all[i]) {
			list = append(list, all[i])
		}
	}
	if len(list) == 0 {
		list = all
	}
	news := !slices.Equal(list, v.told)
	v.told = list
	m.mu.Unlock()
	if news && len(list) > 0 && m.opt.Reach != nil {
		m.opt.Reach(host, list)
	}
}
