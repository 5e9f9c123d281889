package output

import (
	"slices"
	"strconv"
	"time"

	"github.com/snapctl/snapctl/runtime/api"
)

// VemRow is one line of the translation table.
type VemRow struct {
	App               string `json:"app"`
	Network           string `json:"network"`
	Protocol          string `json:"protocol"`
	Local             string `json:"local"`            // virtual address and port
	Remote            string `json:"remote,omitempty"` // none for a listener
	Actual            string `json:"actual"`           // where the socket is
	Inode             uint64 `json:"inode"`
	Status            string `json:"status"`
	State             string `json:"state,omitempty"` // of TCP
	ReceiveQueueBytes int64  `json:"receive_queue_bytes"`
	SendQueueBytes    int64  `json:"send_queue_bytes"`
	Dropped           int64  `json:"dropped"`           // packets that it had no room for
	Channel           string `json:"channel,omitempty"` // to another host

	VemPeer
}

// VemPeer is where the other end of a connection is, what it has carried, and how packets get
// there.
type VemPeer struct {
	SentBytes      int64     `json:"sent_bytes"`            // of TCP, that the peer has acknowledged
	ReceivedBytes  int64     `json:"received_bytes"`        // of TCP
	Host           string    `json:"host,omitempty"`        // this one, if it is in an installation
	RemoteApp      string    `json:"remote_app,omitempty"`  // that has the remote address
	RemoteHost     string    `json:"remote_host,omitempty"` // where that is; none: here
	Module         string    `json:"module,omitempty"`      // of the channel
	Interface      string    `json:"interface,omitempty"`   // of this host, that the channel is at
	UnderlayLocal  string    `json:"underlay_local,omitempty"`
	UnderlayRemote string    `json:"underlay_remote,omitempty"`
	Since          time.Time `json:"since,omitzero"` // when the channel came up, or went down
}

// peer is the other end, for people.
func (p *VemPeer) peer() string {
	if p.RemoteHost != "" {
		return p.RemoteApp + " on " + p.RemoteHost
	}
	return p.RemoteApp
}

// VemTable is what vem table prints.
type VemTable struct {
	Schema
	Rows []VemRow `json:"rows"`
}

// NewVemTable reads the API's messages.
func NewVemTable(rows []*api.VemRow) *VemTable {
	return &VemTable{Schema: schema(), Rows: convert(rows, func(r *api.VemRow) VemRow {
		remote := r.GetRemote()
		if remote == "*" { // as ss(8) writes none
			remote = ""
		}
		return VemRow{
			App: r.GetApp(), Network: r.GetNetwork(), Protocol: r.GetProtocol(), Local: r.GetLocal(), Remote: remote,
			Actual: r.GetActual(), Inode: r.GetInode(), Status: r.GetStatus(), State: r.GetState(),
			ReceiveQueueBytes: r.GetReceiveQueueBytes(), SendQueueBytes: r.GetSendQueueBytes(), Dropped: r.GetDropped(), Channel: r.GetChannel(),
			VemPeer: VemPeer{
				SentBytes: r.GetSentBytes(), ReceivedBytes: r.GetReceivedBytes(),
				Host: r.GetHost(), RemoteApp: r.GetRemoteApp(), RemoteHost: r.GetRemoteHost(), Module: r.GetModule(), Interface: r.GetInterface(),
				UnderlayLocal: r.GetUnderlayLocal(), UnderlayRemote: r.GetUnderlayRemote(), Since: utc(r.GetSince()),
			},
		}
	})}
}

// Table implements [Document].
func (d *VemTable) Table(t *Table) {
	head := []string{"APP", "NETWORK", "PROTOCOL", "LOCAL", "REMOTE", "STATE", "STATUS", "UNREAD", "UNSENT", "DROPPED", "ACTUAL", "PEER", "SENT", "RECEIVED"}
	far := slices.ContainsFunc(d.Rows, func(r VemRow) bool { return r.RemoteHost != "" })
	if far {
		head = append(head, "CHANNEL", "INTERFACE", "SINCE")
	}
	t.Rows(head, convert(d.Rows, func(r VemRow) []string {
		row := []string{
			r.App, r.Network, r.Protocol, r.Local, r.Remote, r.State, r.Status,
			strconv.FormatInt(r.ReceiveQueueBytes, 10), strconv.FormatInt(r.SendQueueBytes, 10), strconv.FormatInt(r.Dropped, 10), r.Actual, r.peer(),
			carried(r.SentBytes), carried(r.ReceivedBytes),
		}
		if far {
			row = append(row, r.Channel, r.Interface, t.age(r.Since))
		}
		return row
	}))
}

// carried is a number of bytes for people; none is left out.
func carried(bytes int64) string {
	if bytes == 0 {
		return ""
	}
	return Size(bytes)
}
