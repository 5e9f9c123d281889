package template

import (
	"net/netip"
	"time"

	"github.com/snapctl/snapctl/snapshot"
)

// Instance is what is known of one clone before it is made.
type Instance struct {
	Name     string // of the app that the clone becomes
	Template string // the template's name
	// Number tells the clones of a template apart: no other that exists has it.
	Number int
	// Count is how many clones are made together. Existing is how many there
	// are of this template already.
	Count    int
	Existing int

	Endpoint  netip.Addr // outside, in Network
	Endpoint6 netip.Addr // may be zero
	Network   string
	// Hostname is the one that was frozen.
	Hostname string
	// Generation is the clone's first, see [NewGeneration].
	Generation string
	CreatedAt  time.Time
	// Set are the values of parameters that were chosen for this clone.
	Set map[string]string
}

// check finds what the caller did wrong.
func (in Instance) check(f *finder) {
	if err := snapshot.ValidateName(in.Name); err != nil {
		f.bad("", "%v", err)
	}
	if in.Count < 1 || in.Number < 0 || in.Existing < 0 {
		f.bad("", "clone %s is number %d of %d, besides %d", in.Name, in.Number, in.Count, in.Existing)
	}
	if !in.Endpoint.IsValid() || in.Generation == "" {
		f.bad("", "clone %s has no endpoint or no generation", in.Name)
	}
}

// others tells whether there is another clone of the same template.
func (in Instance) others() bool { return in.Count > 1 || in.Existing > 0 }

func (in Instance) data(hostname string, set map[string]string) data {
	d := data{
		Name: in.Name, Number: in.Number, Count: in.Count, Endpoint: in.Endpoint.String(), Network: in.Network,
		Template: in.Template, Hostname: hostname, Generation: in.Generation, Set: set,
	}
	if in.Endpoint6.IsValid() {
		d.Endpoint6 = in.Endpoint6.String()
	}
	return d
}
