package server

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/snapctl/snapctl/restore"
	"github.com/snapctl/snapctl/runtime/api"
	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/server/program"
	"github.com/snapctl/snapctl/runtime/source"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/wake"
)

// newRecord checks a request to run an app and turns it into a record.
func (srv *Server) newRecord(req *api.RunRequest) (*app.Record, error) {
	bad := func(err error) (*app.Record, error) {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	if len(req.GetArgs()) == 0 {
		return bad(fmt.Errorf("no program to run"))
	}
	name := req.GetName()
	if name == "" {
		name = srv.rooms.Apps.ChooseName(filepath.Base(req.GetArgs()[0]))
	}
	if err := snapshot.ValidateName(name); err != nil {
		return bad(err)
	}
	rec := &app.Record{
		Identity: app.Identity{Name: name},
		Address:  app.Address{Network: req.GetNetwork()},
		Policy: app.Policy{
			WakeElsewhere: req.GetWake().GetElsewhere(), HibernateAfter: req.GetHibernateAfter().AsDuration(), RestoreMemory: pagesOf(req.GetRestoreMemory()),
			AcceptChanged: req.GetAcceptChangedFiles(),
		},
	}
	var err error
	if rec.Addr4, err = parseEndpoint(req.GetEndpoint()); err != nil {
		return bad(err)
	}
	if rec.Wake, err = wakePolicy(req.GetWake()); err != nil {
		return bad(err)
	}
	if rec.AcceptLost, err = app.Protections(req.GetAcceptLost()); err != nil {
		return nil, err
	}
	for _, p := range req.GetPublish() {
		pub := app.Publication{Proto: cmp.Or(p.GetProtocol(), "tcp"), HostPort: uint16(p.GetHostPort()), Port: uint16(p.GetPort())}
		if pub.Proto != "tcp" && pub.Proto != "udp" || p.GetHostPort()-1 > 65534 || p.GetPort()-1 > 65534 {
			return bad(fmt.Errorf("publish %d:%d/%s: want ports 1 to 65535 of tcp or udp", p.GetHostPort(), p.GetPort(), pub.Proto))
		}
		if a := p.GetHostAddress(); a != "" {
			if pub.HostAddr, err = netip.ParseAddr(a); err != nil {
				return bad(fmt.Errorf("publish: %w", err))
			}
			if !pub.HostAddr.Is4() {
				return bad(fmt.Errorf("publish at %s: want an IPv4 address of the host", a))
			}
		}
		if slices.ContainsFunc(rec.Publish, func(other app.Publication) bool { return vem.Port(pub).Meets(vem.Port(other)) }) {
			return bad(fmt.Errorf("publish host port %d/%s twice", pub.HostPort, pub.Proto))
		}
		rec.Publish = append(rec.Publish, pub)
	}
	if rec.Spec, err = program.New(req, name); err != nil {
		return bad(err)
	}
	return rec, nil
}

func parseEndpoint(text string) (netip.Addr, error) {
	if text == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return a, fmt.Errorf("endpoint %q: want an IPv4 address of the network, such as 10.77.0.7", text)
	}
	return a, nil
}

// neverSilent is how a wake policy says that silent connections never wake.
const neverSilent = -1

func wakePolicy(p *api.WakePolicy) (wake.Policy, error) {
	var w wake.Policy
	switch p.GetMode() {
	case api.WakeMode_WAKE_MODE_ON_CONNECT:
		w.Mode = wake.OnConnect
	case api.WakeMode_WAKE_MODE_NEVER:
		w.Mode = wake.Never
	case api.WakeMode_WAKE_MODE_ON_DATA, api.WakeMode_WAKE_MODE_UNSPECIFIED:
		w.Mode = wake.OnData
	}
	if host := p.GetElsewhere(); host != "" {
		if err := snapshot.ValidateName(host); err != nil {
			return w, fmt.Errorf("wake policy: elsewhere: %w", err)
		}
	}
	w.MinBytes, w.Timers = int(p.GetMinBytes()), p.GetTimers()
	for _, s := range p.GetIgnore() {
		prefix, err := netip.ParsePrefix(s)
		if err != nil {
			addr, aerr := netip.ParseAddr(s)
			if aerr != nil {
				return w, fmt.Errorf("wake policy: ignore %q: want an address or a prefix", s)
			}
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		w.Ignore = append(w.Ignore, wake.Unmap(prefix))
	}
	if p.GetSilentAfter() != nil {
		if w.SilentAfter = p.GetSilentAfter().AsDuration(); w.SilentAfter <= 0 {
			w.SilentAfter = neverSilent
		}
	}
	return w, w.Validate()
}

// restoredRecord is the record of an app to be made from a snapshot.
func restoredRecord(req *api.RestoreRequest, m *snapshot.Manifest) (*app.Record, error) {
	if !m.WithStorage {
		return nil, app.Refusef("snapshot %s has no files: nothing can be restored from it alone", req.GetSnapshot())
	}
	name := cmp.Or(req.GetAs(), m.App)
	if err := snapshot.ValidateName(name); err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	addr, err := netip.ParseAddr(m.Endpoint)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: endpoint: %w", req.GetSnapshot(), err)
	}
	if text := req.GetEndpoint(); text != "" {
		asked, err := parseEndpoint(text)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		addr = asked
	}
	rec, err := source.RecordOf(m)
	if err != nil {
		return nil, fmt.Errorf("snapshot %s: %w", req.GetSnapshot(), err)
	}
	rec.Name, rec.Addr4, rec.RestoredFrom = name, addr, req.GetSnapshot()
	p, err := newPolicy(req, req.AcceptChangedFiles)
	if err != nil {
		return nil, err
	}
	p.Change(rec)
	return rec, nil
}

// policyRequest is a request to make apps of a snapshot.
type policyRequest interface {
	GetWake() *api.WakePolicy
	GetHibernateAfter() *durationpb.Duration
	GetRestoreMemory() api.RestoreMemory
}

// newPolicy reads a request. acceptChanged is nil if the request says nothing of it.
func newPolicy(req policyRequest, acceptChanged *bool) (p app.PolicyChange, err error) {
	p.AcceptChanged = acceptChanged
	wake, after := req.GetWake(), req.GetHibernateAfter()
	if wake != nil {
		w, err := wakePolicy(wake)
		if err != nil {
			return p, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
		}
		p.Wake, p.Elsewhere = &w, wake.GetElsewhere()
	}
	if after != nil {
		d := after.AsDuration()
		if d < 0 {
			return p, fmt.Errorf("%w: hibernate after %s: want a time that is not negative", errdefs.ErrInvalidArgument, d)
		}
		p.After = &d
	}
	if m := req.GetRestoreMemory(); m != api.RestoreMemory_RESTORE_MEMORY_UNSPECIFIED {
		pages := pagesOf(m)
		p.Pages = &pages
	}
	return p, nil
}

func pagesOf(m api.RestoreMemory) restore.Pages {
	if m == api.RestoreMemory_RESTORE_MEMORY_COPIED {
		return restore.Copy
	}
	return restore.Map
}
