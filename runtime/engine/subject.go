package engine

import (
	"net/netip"
	"slices"
	"time"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/snapshot/preflight"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netconf"
)

// tools are what all apps are saved and revived with.
func (eng *Engine) tools() *checkpoint.Tools {
	return &checkpoint.Tools{CRIU: eng.CRIU, Cgroups: eng.Cgroups, Memory: eng.Storage.Memory, Layers: eng.Storage.Layers, HostFiles: eng.Storage.HostFiles, Log: eng.log}
}

// Subject is the app as it is now, to package checkpoint, with protections that it may lose
// besides those of its record. What is held stays so for as long as the caller has the app's
// turn.
func (a *App) Subject(accept ...preflight.Protection) *checkpoint.Subject {
	rec, _ := a.Read()
	return &checkpoint.Subject{
		Name: rec.Name, Box: a.Box, PID: rec.Process.PID, Standard: standardNetwork(&rec), Held: a.Endpoint.Held(), Layers: rec.Layers,
		Memory: rec.Memory, HostFiles: rec.HostFiles, Sessions: a.sessions.now(), Accept: slices.Concat(rec.AcceptLost, accept),
		AcceptChanged: rec.AcceptChanged, Note: a.Remark, Failed: a.Note,
	}
}

// manifest is what the record knows of an app that is saved.
func (eng *Engine) manifest(rec *app.Record) snapshot.Manifest {
	m := snapshot.Manifest{
		Name: rec.Name, App: rec.Name, CreatedAt: time.Now(), Spec: rec.Spec, Origin: eng.origin, Policy: rec.SavedPolicy(),
		Address: snapshot.Address{Network: rec.Network}, Content: snapshot.Content{Layers: rec.Layers},
	}
	four, six := rec.Inside()
	m.Endpoint = four.String()
	if six.IsValid() {
		m.Endpoint6 = six.String()
	}
	return m
}

// standardNetwork is what an app's network namespace has that snapctl made.
func standardNetwork(rec *app.Record) netconf.Standard {
	s := netconf.Standard{Device: fabric.AppDevice, Sysctls: fabric.AppSysctls()}
	four, six := rec.Inside()
	for i, addr := range []netip.Addr{four, six} {
		if addr.IsValid() {
			s.Addresses = append(s.Addresses, addr)
			s.Gateways = append(s.Gateways, fabric.Gateways()[i])
		}
	}
	return s
}
