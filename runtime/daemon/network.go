package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/errdefs"

	"github.com/snapctl/snapctl/runtime/app"
	"github.com/snapctl/snapctl/runtime/journal"
	"github.com/snapctl/snapctl/snapshot"
	"github.com/snapctl/snapctl/template"
	"github.com/snapctl/snapctl/vem"
	"github.com/snapctl/snapctl/vem/address"
)

// spaces keeps the address spaces of networks, each in a file of this directory.
type spaces string

var _ vem.Spaces = spaces("")

func (s spaces) file(network string) string { return filepath.Join(string(s), network+".json") }

// Load implements [vem.Spaces].
func (s spaces) Load(network string) (address.Space, error) {
	var found address.Space
	if err := snapshot.ValidateName(network); err != nil {
		return found, fmt.Errorf("network: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	err := journal.Read(s.file(network), &found)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("read network %s: %w", network, err)
	}
	return found, err
}

// Save implements [vem.Spaces].
func (s spaces) Save(network string, space address.Space) error {
	if err := os.MkdirAll(string(s), 0o700); err != nil {
		return fmt.Errorf("make network: %w", err)
	}
	return journal.Write(s.file(network), space, journal.Forever)
}

// Count implements [vem.Spaces].
func (s spaces) Count() (int, error) {
	files, err := filepath.Glob(s.file("*"))
	return len(files), err
}

// claimOf is what an app has, or is to have, in its network.
func claimOf(r *app.Record) vem.Claim {
	c := vem.Claim{ID: r.DirName(), App: r.Name, Network: r.Network, Addr4: r.Addr4, Addr6: r.Addr6, Inside4: r.Inside4, Inside6: r.Inside6}
	for _, p := range r.Publish {
		c.Ports = append(c.Ports, vem.Port(p))
	}
	return c
}

// claim gives a new app its endpoint, and enters the addresses into the record. Returns a
// *vem.SpareError if a ready clone has to give its address up first.
func (d *Daemon) claim(rec *app.Record, spare *vem.Spare) (*vem.Endpoint, error) {
	rec.Network = cmp.Or(rec.Network, vem.DefaultNetwork)
	c := claimOf(rec)
	c.Spare = spare
	end, err := d.vem.Claim(c)
	if err != nil {
		return nil, claimError(err)
	}
	c = end.Claim()
	rec.Addr4, rec.Addr6 = c.Addr4, c.Addr6
	return end, nil
}

// adoptEndpoint makes the endpoint of an app that an earlier daemon left.
func (d *Daemon) adoptEndpoint(a *App, rec *app.Record) *vem.Endpoint {
	c := claimOf(rec)
	if rec.Pool != "" {
		c.Spare = &vem.Spare{GiveUp: func(ctx context.Context) error { return d.dropPooled(ctx, a) }}
	}
	if rec.Status == app.Stopped {
		return d.vem.Adopt(c, vem.Absent)
	}
	return d.vem.Adopt(c, vem.Present)
}

// claimError has clients of the API know what an error of a claim means.
func claimError(err error) error {
	if e, ok := errors.AsType[*vem.PortError](err); ok {
		return fmt.Errorf("publish host port %d/%s: %w: app %s has it", e.Port.HostPort, e.Port.Proto, errdefs.ErrAlreadyExists, e.App)
	}
	if e, ok := errors.AsType[*vem.TakenError](err); ok {
		return takenError{e}
	}
	if e, ok := errors.AsType[*vem.AddressError](err); ok {
		return fmt.Errorf("endpoint in network %s (%s): %w: %w", e.Network, e.Prefix, errdefs.ErrInvalidArgument, e.Err)
	}
	return err
}

// takenError is an address that another app has. It is an errdefs.ErrAlreadyExists.
type takenError struct{ *vem.TakenError }

func (e takenError) Unwrap() error        { return e.TakenError }
func (e takenError) Is(target error) bool { return target == errdefs.ErrAlreadyExists }

// addPublications gives an app ports of the host, unless another one has them.
func (d *Daemon) addPublications(a *App, list []template.Published) error {
	if len(list) == 0 {
		return nil
	}
	added := make([]vem.Port, len(list))
	for i, p := range list {
		added[i] = vem.Port{Proto: string(p.Protocol), HostAddr: p.HostAddress, HostPort: p.HostPort, Port: p.Port}
	}
	if err := a.end.AddPorts(added); err != nil {
		return claimError(err)
	}
	a.Amend(func(r *app.Record) {
		r.Publish = slices.Clip(r.Publish)
		for _, p := range added {
			r.Publish = append(r.Publish, app.Publication(p))
		}
	})
	return nil
}
