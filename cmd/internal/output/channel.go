package output

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// Channel is a data channel: the way of one network's packets to another host.
type Channel struct {
	Network   string    `json:"network"`
	Host      string    `json:"host"`                // the other one
	State     string    `json:"state"`               // "up", "down"
	Module    string    `json:"module"`              // what carries the packets
	Interface string    `json:"interface,omitempty"` // of this host, which has Local
	Local     string    `json:"local"`               // addresses on the network between hosts
	Remote    string    `json:"remote"`
	MTUBytes  int32     `json:"mtu_bytes"`      // of packets inside
	Since     time.Time `json:"since,omitzero"` // when it came up or went down
	Last      time.Time `json:"last,omitzero"`  // when the last packet went either way
	Sent      Flow      `json:"sent"`
	Received  Flow      `json:"received"`
	Endpoints []string  `json:"endpoints"`       // of the other host, that this one reaches over it
	Unmet     string    `json:"unmet,omitempty"` // why it is not of the kind that this host is to have
}

// Flow is what went one way.
type Flow struct {
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

func newFlow(f *api.Flow) Flow { return Flow{Packets: f.GetPackets(), Bytes: f.GetBytes()} }

func (f Flow) text() string {
	if f.Packets == 0 {
		return ""
	}
	return Size(int64(f.Bytes)) + " in " + strconv.FormatUint(f.Packets, 10)
}

// NewChannel reads the API's message.
func NewChannel(c *api.Channel) Channel {
	return Channel{
		Network: c.GetNetwork(), Host: c.GetHost(), State: map[bool]string{false: "down", true: "up"}[c.GetUp()], Module: c.GetModule(), Interface: c.GetDevice(), Local: c.GetLocal(), Remote: c.GetRemote(),
		MTUBytes: c.GetMtu(), Since: utc(c.GetSince()), Last: utc(c.GetLast()), Sent: newFlow(c.GetSent()), Received: newFlow(c.GetReceived()), Endpoints: list(c.GetEndpoints()), Unmet: c.GetUnmet(),
	}
}

// ChannelList is what vem channels prints.
type ChannelList struct {
	Schema
	Channels []Channel `json:"channels"`
}

// NewChannelList reads the API's messages.
func NewChannelList(all []*api.Channel) *ChannelList {
	return &ChannelList{Schema: schema(), Channels: convert(all, NewChannel)}
}

// Table implements [Document].
func (d *ChannelList) Table(t *Table) {
	t.Rows([]string{"NETWORK", "HOST", "STATE", "SINCE", "IDLE", "MODULE", "INTERFACE", "LOCAL", "REMOTE", "SENT", "RECEIVED", "ENDPOINTS", "NOTE"},
		convert(d.Channels, func(c Channel) []string {
			return []string{
				c.Network, c.Host, c.State, t.age(c.Since), t.age(c.Last), c.Module, c.Interface, c.Local, c.Remote,
				c.Sent.text(), c.Received.text(), shorten(strings.Join(c.Endpoints, " "), maxEndpointsText), c.Unmet,
			}
		}))
}

// maxEndpointsText is how many characters the endpoints of a channel get in a table.
const maxEndpointsText = 40

// ChannelsDown is what vem channels down prints.
type ChannelsDown struct{ ChannelList }

// NewChannelsDown reads the API's messages.
func NewChannelsDown(all []*api.Channel) *ChannelsDown { return &ChannelsDown{*NewChannelList(all)} }

// Table implements [Document].
func (d *ChannelsDown) Table(t *Table) {
	if len(d.Channels) == 0 {
		t.Line("no channel was up")
	}
	for _, c := range d.Channels {
		t.Line(fmt.Sprintf("channel to host %s in network %s taken down; the next packet brings it up", c.Host, c.Network))
	}
}
