package output

import (
	"strconv"

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
		}
	})}
}

// Table implements [Document].
func (d *VemTable) Table(t *Table) {
	t.Rows([]string{"APP", "NETWORK", "PROTOCOL", "LOCAL", "REMOTE", "STATE", "STATUS", "RECEIVED", "UNSENT", "DROPPED", "ACTUAL", "CHANNEL"},
		convert(d.Rows, func(r VemRow) []string {
			return []string{
				r.App, r.Network, r.Protocol, r.Local, r.Remote, r.State, r.Status,
				strconv.FormatInt(r.ReceiveQueueBytes, 10), strconv.FormatInt(r.SendQueueBytes, 10), strconv.FormatInt(r.Dropped, 10), r.Actual, r.Channel,
			}
		}))
}
