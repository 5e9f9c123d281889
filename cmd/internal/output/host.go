package output

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// Host is a host of the installation.
type Host struct {
	Name             string        `json:"name"`
	Self             bool          `json:"self"` // it is the one that was asked
	Health           string        `json:"health"`
	Addresses        []HostAddress `json:"addresses"`
	Port             uint32        `json:"port"` // of its control channel
	Version          string        `json:"version,omitempty"`
	Directory        bool          `json:"directory"` // it runs a member of the directory
	Endpoints        int32         `json:"endpoints"` // that it owns
	Key              string        `json:"key"`       // SHA-256 of its public key
	JoinedAt         time.Time     `json:"joined_at,omitzero"`
	CertificateUntil time.Time     `json:"certificate_until,omitzero"` // of the one that was asked
	Installation     string        `json:"installation"`
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
		Directory: h.GetDirectory(), Endpoints: h.GetEndpoints(), Key: h.GetKey(), JoinedAt: utc(h.GetJoinedAt()),
		CertificateUntil: utc(h.GetCertificateUntil()), Installation: h.GetInstallation(),
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
	Hosts []Host `json:"hosts"`
}

// NewHostList reads the API's messages.
func NewHostList(all []*api.Host) *HostList {
	return &HostList{Schema: schema(), Hosts: convert(all, NewHost)}
}

// Table implements [Document].
func (d *HostList) Table(t *Table) {
	t.Rows([]string{"NAME", "HEALTH", "DIRECTORY", "ENDPOINTS", "VERSION", "JOINED", "ADDRESSES"}, convert(d.Hosts, func(h Host) []string {
		name, directory := h.Name, ""
		if h.Self {
			name += " (this host)"
		}
		if h.Directory {
			directory = "member"
		}
		return []string{name, h.Health, directory, number(h.Endpoints), h.Version, t.age(h.JoinedAt), strings.Join(h.addresses(), " ")}
	}))
}

// HostDetail is what host show, host init and host join print.
type HostDetail struct {
	Schema
	Host Host `json:"host"`
}

// NewHostDetail reads the API's message.
func NewHostDetail(h *api.Host) *HostDetail {
	return &HostDetail{Schema: schema(), Host: NewHost(h)}
}

// Table implements [Document].
func (d *HostDetail) Table(t *Table) {
	h := d.Host
	directory := ""
	if h.Directory {
		directory = "runs a member"
	}
	t.Fields([]Field{
		{"name", h.Name},
		{"installation", h.Installation},
		{"health", h.Health},
		{"addresses", strings.Join(h.addresses(), " ")},
		{"control port", strconv.Itoa(int(h.Port))},
		{"directory", directory},
		{"endpoints", number(h.Endpoints)},
		{"version", h.Version},
		{"key", h.Key},
		{"joined", stamp(h.JoinedAt)},
		{"certificate until", stamp(h.CertificateUntil)},
	})
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
