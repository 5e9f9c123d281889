package hold_test

import (
	"encoding/json"
	"net/netip"
	"testing"

	"github.com/go-quicktest/qt"

	"github.com/snapctl/snapctl/vem/hold"
)

func TestSocketJSON(t *testing.T) {
	s := hold.Socket{Inode: 255, Kind: hold.TCPListen, Family: 2, Type: 1, Proto: 6, State: "LISTEN", Local: netip.MustParseAddrPort("10.77.0.7:80"), Backlog: 5, Owners: []hold.Owner{{PID: 1, FD: 2}}}
	b, err := json.Marshal(s)
	qt.Assert(t, qt.IsNil(err))
	qt.Assert(t, qt.Equals(string(b), `{"inode":255,"kind":"tcp_listen","family":2,"type":1,"proto":6,"state":"LISTEN",`+
		`"local":"10.77.0.7:80","remote":"","backlog":5,"owners":[{"pid":1,"fd":2}]}`))
	var back hold.Socket
	qt.Assert(t, qt.IsNil(json.Unmarshal(b, &back)))
	qt.Assert(t, qt.CmpEquals(back, s, byValue()))
	qt.Assert(t, qt.Equals(s.Key(), "ff.socket"))
	qt.Assert(t, qt.ErrorIs(json.Unmarshal([]byte(`{"kind":"x"}`), &back), hold.ErrKind))
}
