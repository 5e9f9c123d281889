package hosts

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/snapctl/snapctl/cmd/internal/output"
	"github.com/snapctl/snapctl/runtime/api"
)

// Gateway is what host gateway prints.
type Gateway struct {
	output.Schema
	Host      string           `json:"host"`
	On        bool             `json:"on"`
	Advertise []string         `json:"advertise"` // prefixes of machines that keep their addresses
	Networks  []GatewayNetwork `json:"networks"`
	Ports     []ForwardedPort  `json:"ports"`
	Others    []OtherGateway   `json:"others"`
	Clients   string           `json:"clients"` // translated: apps see who comes this way as this host
}

// GatewayNetwork is a network that the host itself is in.
type GatewayNetwork struct {
	Name     string `json:"name"`
	Prefix4  string `json:"prefix4"`
	Prefix6  string `json:"prefix6,omitempty"`
	Address4 string `json:"address4"` // of the host
	Address6 string `json:"address6,omitempty"`
}

// ForwardedPort is a port that an app of another host publishes.
type ForwardedPort struct {
	Protocol string `json:"protocol"`
	HostPort uint32 `json:"host_port"`
	Port     uint32 `json:"port"` // the app's
	Network  string `json:"network"`
	Address  string `json:"address"` // the app's endpoint
	App      string `json:"app"`
	Host     string `json:"host"`             // that the app is on
	Reason   string `json:"reason,omitempty"` // why the port does not lead to the app on this host
}

// OtherGateway is a gateway on another host.
type OtherGateway struct {
	Host      string   `json:"host"`
	Advertise []string `json:"advertise"`
	Alive     bool     `json:"alive"`
}

// NewGateway reads the API's message.
func NewGateway(g *api.Gateway) *Gateway {
	d := &Gateway{
		Schema: output.Schema{Version: output.SchemaVersion}, Host: g.GetHost(), On: g.GetOn(), Advertise: append([]string{}, g.GetAdvertise()...),
		Networks: []GatewayNetwork{}, Ports: []ForwardedPort{}, Others: []OtherGateway{}, Clients: "translated",
	}
	for _, n := range g.GetNetworks() {
		d.Networks = append(d.Networks, GatewayNetwork{n.GetName(), n.GetPrefix4(), n.GetPrefix6(), n.GetAddress4(), n.GetAddress6()})
	}
	for _, p := range g.GetPorts() {
		d.Ports = append(d.Ports, ForwardedPort{p.GetProtocol(), p.GetHostPort(), p.GetPort(), p.GetNetwork(), p.GetAddress(), p.GetApp(), p.GetHost(), p.GetReason()})
	}
	for _, o := range g.GetOthers() {
		d.Others = append(d.Others, OtherGateway{o.GetHost(), append([]string{}, o.GetAdvertise()...), o.GetAlive()})
	}
	return d
}

// Table implements [output.Document].
func (d *Gateway) Table(t *output.Table) {
	fields := []output.Field{{Name: "host", Value: d.Host}, {Name: "gateway", Value: map[bool]string{false: "off", true: "on"}[d.On]}, {Name: "advertises", Value: strings.Join(d.Advertise, " ")}}
	for _, n := range d.Networks {
		text := fmt.Sprintln(n.Prefix4, n.Prefix6, "as", n.Address4, n.Address6)
		fields = append(fields, output.Field{Name: "network " + n.Name, Value: strings.Join(strings.Fields(text), " ")})
	}
	for _, o := range d.Others {
		fields = append(fields, output.Field{Name: "gateway on " + o.Host, Value: strings.Join(o.Advertise, " ") + map[bool]string{false: " (silent)"}[o.Alive]})
	}
	if d.On || len(d.Ports) > 0 {
		fields = append(fields, output.Field{Name: "clients", Value: "seen by apps as this host"})
	}
	t.Fields(fields)
	if len(d.Ports) == 0 {
		return
	}
	t.Line("")
	var rows [][]string
	for _, p := range d.Ports {
		rows = append(rows, []string{fmt.Sprintf("%d/%s", p.HostPort, p.Protocol), p.App, fmt.Sprintf("%s:%d", p.Address, p.Port), p.Host, cmp.Or(p.Reason, "leads to it")})
	}
	t.Rows([]string{"PORT", "APP", "ENDPOINT", "HOST", "HERE"}, rows)
}
