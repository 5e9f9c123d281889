package output

import (
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// Host is a host of the installation.
type Host struct {
	Name      string        `json:"name"`
	Self      bool          `json:"self"` // it is the one that was asked
	Health    string        `json:"health"`
	Addresses []HostAddress `json:"addresses"`
	Port      uint32        `json:"port"` // of its control channel
	Version   string        `json:"version,omitempty"`
	HostRoles
	Endpoints        int32         `json:"endpoints"` // that it owns
	Key              string        `json:"key"`       // SHA-256 of its public key
	JoinedAt         time.Time     `json:"joined_at,omitzero"`
	CertificateUntil time.Time     `json:"certificate_until,omitzero"` // of the one that was asked
	Installation     string        `json:"installation"`
	Since            time.Time     `json:"since,omitzero"` // when it came up or fell silent
	Control          *HostControl  `json:"control,omitempty"`
	Channels         *HostChannels `json:"channels,omitempty"` // of the one that was asked
}

// HostChannels are what carries packets to other hosts.
type HostChannels struct {
	Kind            string            `json:"kind"`                       // of all of them, or auto
	Kinds           []string          `json:"kinds"`                      // those that the host can make, the best first
	PrivateNetworks []string          `json:"private_networks,omitempty"` // its networks that no other host shares
	Unmet           []string          `json:"unmet,omitempty"`            // why channels that are up are not of that kind
	Networks        map[string]string `json:"networks,omitempty"`         // whose channels are to be of another kind
}

func newHostChannels(h *api.Host) *HostChannels {
	if h.GetChannel() == "" {
		return nil
	}
	return &HostChannels{Kind: h.GetChannel(), Kinds: list(h.GetChannelKinds()), PrivateNetworks: h.GetPrivateNetworks(), Unmet: h.GetChannelUnmet(), Networks: h.GetNetworkChannels()}
}

// text tells what kinds of channels the host has, and can have.
func (c *HostChannels) text() string {
	if c == nil {
		return ""
	}
	notes := []string{c.Kind + " (it makes " + strings.Join(c.Kinds, ", ") + ")"}
	for _, network := range slices.Sorted(maps.Keys(c.Networks)) {
		notes = append(notes, c.Networks[network]+" for network "+network)
	}
	if len(c.PrivateNetworks) > 0 {
		notes = append(notes, "none for its private networks "+strings.Join(c.PrivateNetworks, ", "))
	}
	return strings.Join(append(notes, c.Unmet...), "; ")
}

// HostControl is the connection of the host that was asked to another one.
type HostControl struct {
	State       string    `json:"state"`             // up, down
	Address     string    `json:"address,omitempty"` // with the port
	Since       time.Time `json:"since,omitzero"`
	SkewUs      int64     `json:"skew_us"`       // how far the other's clock is ahead
	RoundTripUs int64     `json:"round_trip_us"` // skew_us is right to half of it
	Error       string    `json:"error,omitempty"`
	Remedy      string    `json:"remedy,omitempty"`
}

func newHostControl(c *api.HostControl) *HostControl {
	if c == nil {
		return nil
	}
	state := "down"
	if c.GetConnected() {
		state = "up"
	}
	return &HostControl{
		State: state, Address: c.GetAddress(), Since: utc(c.GetSince()), SkewUs: microseconds(c.GetSkew()), RoundTripUs: microseconds(c.GetRoundTrip()),
		Error: c.GetError(), Remedy: c.GetRemedy(),
	}
}

// isUp tells whether there is a connection.
func (c *HostControl) isUp() bool { return c != nil && c.State == "up" }

// clock is the difference between the clocks for people; small ones are none.
func (c *HostControl) clock() string {
	const small = 100 * time.Millisecond
	if !c.isUp() {
		return ""
	}
	skew := time.Duration(c.SkewUs) * time.Microsecond
	switch {
	case skew.Abs() < small+time.Duration(c.RoundTripUs)*time.Microsecond/2:
		return "same"
	case skew < 0:
		return "-" + Took(-skew)
	default:
		return "+" + Took(skew)
	}
}

// HostRoles is what a host does for the installation.
type HostRoles struct {
	Directory bool `json:"directory"` // it runs a member of the directory
	CA        bool `json:"ca"`        // it has the CA: it invites, lets in and renews
	Cordoned  bool `json:"cordoned"`  // it takes no apps of other hosts
}

// HostWay is a way to a host.
type HostWay struct {
	Address     string  `json:"address"` // of the host that was asked
	Device      string  `json:"device"`
	Remote      string  `json:"remote"`
	State       string  `json:"state"`
	Used        bool    `json:"used"`
	RoundTripUS int64   `json:"round_trip_us,omitempty"`
	LossPercent float64 `json:"loss_percent"`
	MTUBytes    int32   `json:"mtu_bytes,omitempty"`
}

func newHostWay(w *api.HostWay) HostWay {
	return HostWay{
		Address: w.GetAddress(), Device: w.GetDevice(), Remote: w.GetRemote(), State: word(w.GetState(), api.WayState_name, "WAY_STATE_"), Used: w.GetUsed(),
		RoundTripUS: w.GetRoundTrip().AsDuration().Microseconds(), LossPercent: math.Round(1000*w.GetLoss()) / 10, MTUBytes: w.GetMtu(),
	}
}

// row is the way in a table.
func (w HostWay) row() []string {
	used, trip, mtu := "", "", ""
	if w.Used {
		used = "yes"
	}
	if w.RoundTripUS > 0 {
		trip = (time.Duration(w.RoundTripUS) * time.Microsecond).String()
	}
	if w.MTUBytes > 0 {
		mtu = strconv.Itoa(int(w.MTUBytes))
	}
	return []string{w.Address + "%" + w.Device, w.Remote, w.State, used, trip, strconv.FormatFloat(w.LossPercent, 'f', -1, 64) + "%", mtu}
}

// HostAddress is where other hosts reach a host.
type HostAddress struct {
	Address  string `json:"address"`
	Device   string `json:"device,omitempty"`
	Priority int32  `json:"priority"`
}

// NewHost reads the API's message.
func NewHost(h *api.Host) Host {
	return Host{
		Name: h.GetName(), Self: h.GetSelf(), Health: word(h.GetHealth(), api.HostHealth_name, "HOST_HEALTH_"), Port: h.GetPort(), Version: h.GetVersion(),
		Addresses: convert(h.GetAddresses(), func(a *api.HostAddress) HostAddress {
			return HostAddress{Address: a.GetAddress(), Device: a.GetDevice(), Priority: a.GetPriority()}
		}),
		HostRoles: HostRoles{Directory: h.GetDirectory(), CA: h.GetCa(), Cordoned: h.GetCordoned()}, Endpoints: h.GetEndpoints(), Key: h.GetKey(), JoinedAt: utc(h.GetJoinedAt()),
		CertificateUntil: utc(h.GetCertificateUntil()), Installation: h.GetInstallation(),
		Since: utc(h.GetSince()), Control: newHostControl(h.GetControl()),
		Channels: newHostChannels(h),
	}
}

// text is the address as --address takes it.
func (a HostAddress) text() string {
	text := a.Address
	if a.Device != "" {
		text += "%" + a.Device
	}
	if a.Priority != 0 {
		text += ",priority=" + strconv.Itoa(int(a.Priority))
	}
	return text
}

func (h Host) addresses() []string { return convert(h.Addresses, HostAddress.text) }

// HostList is what host ls prints.
type HostList struct {
	Schema
	Hosts   []Host   `json:"hosts"`
	Trouble string   `json:"trouble,omitempty"` // why this may be outdated
	Notes   []string `json:"notes"`             // what is not as it should be
}

// NewHostList reads the API's message. notes are what is not as it should be.
func NewHostList(r *api.ListHostsResponse, notes ...string) *HostList {
	return &HostList{Schema: schema(), Hosts: convert(r.GetHosts(), NewHost), Trouble: r.GetTrouble(), Notes: append([]string{}, notes...)}
}

// Table implements [Document].
func (d *HostList) Table(t *Table) {
	t.Rows([]string{"NAME", "HEALTH", "SINCE", "CONTROL", "CLOCK", "DIRECTORY", "ENDPOINTS", "VERSION", "JOINED", "ADDRESSES"}, convert(d.Hosts, func(h Host) []string {
		name, directory := h.Name, ""
		if h.Self {
			name += " (this host)"
		}
		if h.Directory {
			directory = "member"
		}
		control := ""
		if h.Control != nil {
			control = h.Control.State
		}
		return []string{name, h.Health + map[bool]string{true: ", cordoned"}[h.Cordoned], t.age(h.Since), control, h.Control.clock(), directory, number(h.Endpoints), h.Version, t.age(h.JoinedAt), strings.Join(h.addresses(), " ")}
	}))
	for _, note := range d.Notes {
		t.Line("note: " + note)
	}
	if d.Trouble != "" {
		t.Line("")
		t.Line("The directory can't be asked now, and this may be outdated: " + d.Trouble)
	}
}

// HostDetail is what host show, host init and host join print.
type HostDetail struct {
	Schema
	Host Host      `json:"host"`
	Ways []HostWay `json:"ways,omitempty"` // to it, from the one that was asked
}

// NewHostDetail reads the API's message.
func NewHostDetail(h *api.Host) *HostDetail {
	return &HostDetail{Schema: schema(), Host: NewHost(h), Ways: convert(h.GetWays(), newHostWay)}
}

// Table implements [Document].
func (d *HostDetail) Table(t *Table) {
	h := d.Host
	directory, ca := "", ""
	if h.Directory {
		directory = "runs a member"
	}
	if h.CA {
		ca = "has it: invites, lets in and renews"
	}
	control, remedy := "", ""
	if c := h.Control; c.isUp() {
		control = fmt.Sprintf("up since %s, at %s", stamp(c.Since), c.Address)
	} else if c != nil {
		control, remedy = "down", c.Remedy
		if c.Error != "" {
			control += ": " + c.Error
		}
	}
	t.Fields([]Field{
		{"name", h.Name},
		{"installation", h.Installation},
		{"health", h.Health + map[bool]string{true: ", cordoned"}[h.Cordoned]},
		{"since", stamp(h.Since)},
		{"control channel", control},
		{"what to do", remedy},
		{"clock", h.Control.clock()},
		{"addresses", strings.Join(h.addresses(), " ")},
		{"control port", strconv.Itoa(int(h.Port))},
		{"directory", directory},
		{"CA", ca},
		{"endpoints", number(h.Endpoints)},
		{"channels", h.Channels.text()},
		{"version", h.Version},
		{"key", h.Key},
		{"joined", stamp(h.JoinedAt)},
		{"certificate until", stamp(h.CertificateUntil)},
	})
	if len(d.Ways) > 0 {
		t.Line("")
		t.Rows([]string{"WAY FROM", "TO", "STATE", "USED", "ROUND TRIP", "LOSS", "MTU"}, convert(d.Ways, HostWay.row))
	}
}

// HostInvitation is what host invite prints.
type HostInvitation struct {
	Schema
	Token     string    `json:"token"`     // for one host, once
	Addresses []string  `json:"addresses"` // with ports, where the token is accepted
	ExpiresAt time.Time `json:"expires_at"`
}

// NewHostInvitation reads the API's message.
func NewHostInvitation(i *api.Invitation) *HostInvitation {
	return &HostInvitation{Schema: schema(), Token: i.GetToken(), Addresses: list(i.GetAddresses()), ExpiresAt: utc(i.GetExpiresAt())}
}

// Table implements [Document].
func (d *HostInvitation) Table(t *Table) {
	at := "ADDRESS"
	if len(d.Addresses) > 0 {
		at = shortest(d.Addresses[0])
	}
	t.Line(fmt.Sprintf("On the host that is to join, within %s:", d.ExpiresAt.Sub(t.now).Round(time.Second)))
	t.Line("")
	t.Line(fmt.Sprintf("  snapctl host join %s %s", at, d.Token))
	if len(d.Addresses) > 1 {
		t.Line("")
		t.Line("This host is also at " + strings.Join(convert(d.Addresses[1:], shortest), ", ") + ".")
	}
}

// shortest leaves the usual port out.
func shortest(hostPort string) string {
	host, port, err := net.SplitHostPort(hostPort)
	if err != nil || port != controlPort {
		return hostPort
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String()
	}
	return host
}

const controlPort = "7077"
