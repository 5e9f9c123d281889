package hosts

import (
	"cmp"
	"fmt"
	"slices"
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
	Prefixes  []GatewayPrefix  `json:"prefixes"`  // the same, with more about each
	Networks  []GatewayNetwork `json:"networks"`
	Ports     []ForwardedPort  `json:"ports"`
	Others    []OtherGateway   `json:"others"`
	Clients   string           `json:"clients"` // translated: apps see all others who come this way as this host
	Notes     []string         `json:"notes"`   // what keeps machines that keep their addresses from apps
}

// GatewayPrefix is a prefix that the host advertises.
type GatewayPrefix struct {
	Prefix   string   `json:"prefix"`
	Clients  string   `json:"clients"`  // kept: apps see, and reach, its machines at their own addresses
	Gateways []string `json:"gateways"` // other hosts that are alive and advertise it too
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
		Prefixes: []GatewayPrefix{}, Networks: []GatewayNetwork{}, Ports: []ForwardedPort{}, Others: []OtherGateway{}, Clients: "translated",
		Notes: append([]string{}, g.GetNotes()...),
	}
	for _, p := range g.GetAdvertise() {
		one := GatewayPrefix{Prefix: p, Clients: "kept", Gateways: []string{}}
		for _, o := range g.GetOthers() {
			if o.GetAlive() && slices.Contains(o.GetAdvertise(), p) {
				one.Gateways = append(one.Gateways, o.GetHost())
			}
		}
		d.Prefixes = append(d.Prefixes, one)
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
	fields := []output.Field{{Name: "host", Value: d.Host}, {Name: "gateway", Value: map[bool]string{false: "off", true: "on"}[d.On]}}
	for _, p := range d.Prefixes {
		text := "its machines keep their addresses"
		if len(p.Gateways) > 0 {
			text += ", also by " + strings.Join(p.Gateways, ", ")
		}
		fields = append(fields, output.Field{Name: "advertises " + p.Prefix, Value: text})
	}
	for _, n := range d.Networks {
		text := fmt.Sprintln(n.Prefix4, n.Prefix6, "as", n.Address4, n.Address6)
		fields = append(fields, output.Field{Name: "network " + n.Name, Value: strings.Join(strings.Fields(text), " ")})
	}
	for _, o := range d.Others {
		fields = append(fields, output.Field{Name: "gateway on " + o.Host, Value: cmp.Or(strings.Join(o.Advertise, " "), "translates") + map[bool]string{false: " (silent)"}[o.Alive]})
	}
	if d.On || len(d.Ports) > 0 {
		fields = append(fields, output.Field{Name: map[bool]string{false: "clients", true: "other clients"}[len(d.Prefixes) > 0], Value: "seen by apps as this host"})
	}
	for _, note := range d.Notes {
		fields = append(fields, output.Field{Name: "note", Value: note})
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
