package daemon

import (
	"net/netip"
	"path/filepath"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/checkpoint/netstate"
	"github.com/snapctl/snapctl/vem/fabric"
	"github.com/snapctl/snapctl/vem/netconf"
)

// netState is the app, to package netstate. The caller has the app's turn.
func (a *App) netState() *netstate.App {
	rec, _ := a.Read()
	return &netstate.App{
		NetPath: a.box.NetPath(), Standard: standardNetwork(&rec), PIDs: a.cgroup().PIDs, Held: a.held,
		Repair: filepath.Join(a.work(), "repair.json"), Note: a.Remark,
	}
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
